"""The gallery of a case: its first poisons beside the images they replace, and its targets, on one lossless sheet.

Whoever looks at a run then needs neither the dataset nor the shards. A sheet has three rows of tiles: bases, poisons,
targets; `gallery.json` says what they are of.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

GALLERY = "gallery.json"
MOST = 12
"""Most poisons, and most targets, of a case that are kept for looking at."""


@dataclass(frozen=True)
class Gallery:
    """What can be looked at of a case.

    base, poisons: uint8 [n, H, W, C], the same images without and with the perturbation.  poison_ids: their train ids.
    targets: uint8 [t, H, W, C].  target_ids: their test ids.  Both are the first of what the case has, `MOST` at most.
    """

    base: np.ndarray
    poisons: np.ndarray
    poison_ids: Sequence[int]
    targets: np.ndarray
    target_ids: Sequence[int]


def sheet(gallery: Gallery) -> tuple[bytes, dict[str, Any]]:
    """A gallery as a PNG and the facts that `read` needs."""
    rows = (gallery.base, gallery.poisons, gallery.targets)
    _, height, width, channels = gallery.base.shape
    pixels = np.zeros((3 * height, max(map(len, rows)) * width, channels), np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            pixels[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    facts = {
        "shape": [height, width, channels],
        "poison_ids": list(gallery.poison_ids),
        "target_ids": list(gallery.target_ids),
    }
    return png(pixels), facts


def read(data: bytes, facts: Mapping[str, Any]) -> Gallery:
    """The gallery that `sheet` wrote."""
    height, width, channels = facts["shape"]
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture).reshape(3, height, -1, width, channels).swapaxes(1, 2)
    shown, targets = len(facts["poison_ids"]), len(facts["target_ids"])
    return Gallery(pixels[0, :shown], pixels[1, :shown], facts["poison_ids"], pixels[2, :targets], facts["target_ids"])


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, C], of one channel or three, as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "png", optimize=True)
    return file.getvalue()
