"""What JPEGs say of themselves, for files that keep them as they are: a decoder writes what this header says."""

from io import BytesIO
from struct import Struct

import numpy as np

_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive, by Huffman codes: what every decoder reads."""

_TABLES = (0xC4, 0xCC)
"""Segments numbered among the frames that are none."""

_FRAME = Struct(">BBHBHHB")
"""A frame header: FF, kind, length, bits, height, width, channels."""


def encode(image: np.ndarray, quality: int) -> bytes:
    """A JPEG of an image, uint8 [H, W, 3], of quality 1 to 100, with 4:2:0 chroma as FFCV writes it."""
    from PIL import Image

    if not 1 <= quality <= 100:
        raise ValueError(f"a JPEG's quality is from 1 to 100, found {quality}")
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def shape(data: bytes | memoryview) -> tuple[int, int]:
    """Height and width that a JPEG says in its frame header; (0, 0) for what is no 8-bit JPEG of one or three channels.

    Only the header is read, segment by segment (ITU-T T.81, annex B), as decoders do: they can see no other size.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return 0, 0
    at = 2
    while at + _FRAME.size <= len(data):
        mark, kind, length, depth, height, width, channels = _FRAME.unpack_from(data, at)
        if mark == 0xFF and kind in _FRAMES:
            return (height, width) if depth == 8 and channels in (1, 3) and height and width else (0, 0)
        # Before the frame header come only segments that carry their length, and bytes FF that fill.
        if mark != 0xFF or not (kind in _TABLES or kind >= 0xDB):
            return 0, 0
        at += 1 if kind == 0xFF else 2 + max(length, 2)
    return 0, 0


def describe(found: tuple[int, int]) -> str:
    """What `shape` found, for a message."""
    return f"is a JPEG of {found[0]}x{found[1]}" if found[0] else "is no 8-bit JPEG of one or three channels"
