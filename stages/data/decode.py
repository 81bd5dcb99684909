"""Pixels from the bytes of image files, decoded strictly and as quickly as Pillow can.

Strictly, because a file that silently decodes to grey would be a poison that nobody meant: every bad file is named.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from stages.config import InputError
from stages.data.image_tree import Tree

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

NOT_WHOLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error)
"""What Pillow raises for an image that is cut short or damaged."""

SCALED_AT_MOST = 1 << 26
"""Pixels that an image may be scaled to: 200 MB. A panorama 2 pixels high would fill the memory."""


@dataclass(frozen=True)
class Form:
    """How an image becomes an array: its shape (height, width, channels), and `resize`, the length in pixels that the
    short side gets before the center crop, or None where an image must have the shape already."""

    shape: tuple[int, int, int]
    resize: int | None


def decode(
    tree: Tree, names: Sequence[str], form: Form, cpus: int, out: np.ndarray, progress: Callable[[int], None]
) -> list[str]:
    """Fill `out`, uint8 [N, H, W, C], with the images of these names; one sentence for each that is none.

    The rows of those are left as they were. progress: told how many images are done, now and then.
    See `decode_one` for what is read and what is refused.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched it on for the whole process
    faults: list[str] = []

    def fill(row: int) -> str | None:
        try:
            out[row] = decode_one(tree.read(names[row]), tree.where(names[row]), form)
        except InputError as error:
            return str(error)
        return None

    at_once = max(256, 32 * cpus)  # ImageNet would queue a million tasks
    with ThreadPoolExecutor(cpus) as pool:
        for start in range(0, len(names), at_once):
            rows = range(start, min(start + at_once, len(names)))
            faults += [fault for fault in pool.map(fill, rows) if fault is not None]
            progress(rows.stop)
    return faults


def decode_one(data: bytes, name: str, form: Form) -> np.ndarray:
    """One image as uint8 [H, W, C], by its content, whatever its name, which messages begin with.

    Colours become RGB (or grey, for one channel) as in torchvision's loader, Pillow's `convert`: grey is repeated, CMYK
    converted, a palette looked up, alpha dropped. EXIF orientation is not applied, as there. With `form.resize`: the
    short side is scaled to it, antialiased bilinear, and the center cropped, as torchvision's Resize and CenterCrop
    (He et al. 2016, section 3.4; Krizhevsky et al. 2012, section 2).

    Raises InputError for data that are cut short, no still image in one of FORMATS, of more than 8 bits a channel,
    smaller than 2×2, too large for Pillow or too long to be scaled, or not of the form's shape where there is no
    `resize`. A JPEG whose compressed data were changed but still decode cannot be told from a good one.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.format == "PNG":
            image.verify()  # the only way to have Pillow check every chunk's CRC; it consumes the image
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        # MPO is the still image of a camera, followed by its preview
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{name}: is animated or has several pages; expected one image")
        if image.mode not in EIGHT_BIT_MODES:
            raise InputError(f"{name}: has pixels of mode {image.mode}; expected 8 bits a channel")
        if min(image.size) < 2:
            raise InputError(f"{name}: is {image.width}×{image.height} pixels; expected at least 2×2")
        image.decodermaxblock = len(data)  # in one go: a fifth less time than in Pillow's blocks of 64 KB
        return _shaped(image, form, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            f"{name}: begins with {data[:12]!r}, as no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image does"
            if data
            else f"{name}: is empty"
        ) from None
    except NOT_WHOLE as error:
        raise InputError(f"{name}: not a whole image ({error})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too large ({error})") from error


def _shaped(image: Image.Image, form: Form, name: str) -> np.ndarray:
    height, width, channels = form.shape
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it goes from a transparent palette straight to RGB
    mode = "RGB" if channels == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    if form.resize is not None:
        short = min(image.size)
        wide, high = (int(form.resize * side / short) for side in image.size)
        if wide * high > SCALED_AT_MOST:
            raise InputError(
                f"{name}: is {image.width}×{image.height} pixels, too long and narrow: scaled to a short side of "
                f"{form.resize} it would have {wide}×{high}"
            )
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        raise InputError(f"{name}: is {image.width}×{image.height} pixels; expected {width}×{height}")
    return np.asarray(image).reshape(form.shape)
