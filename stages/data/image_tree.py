"""Image trees, {train, test or val}/CLASS/…: what is in them from a listing alone, and their pixels, decoded strictly.

A listing is cheap, even of ImageNet, and gives the labels and the fingerprint before any compute. Decoding is strict
because a file that silently decodes to grey would be a poison that nobody meant: every bad file is named at once.
"""

import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from stages.config import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that torchvision's ImageFolder takes; all others are ignored, as there."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Tree:
    """A listing. Images are in canonical order: by label, then by folder and name, as torchvision's ImageFolder.

    train_files, test_files: paths relative to `root`.  train_labels, test_labels: int64, the positions in `classes`.
    fingerprint: sha256 over the sorted relative paths and sizes in bytes of all images, not over their content.
    """

    root: Path
    classes: tuple[str, ...]
    train_files: tuple[str, ...]
    train_labels: np.ndarray
    test_files: tuple[str, ...]
    test_labels: np.ndarray
    fingerprint: str


def list_tree(root: Path, classes: tuple[str, ...] | None = None) -> Tree | None:
    """The tree at `root`, or None where `root` has no folder `train`; nothing is decoded.

    classes: their names in the order of their labels, a folder each with `/` written `-`; None takes the folders of
    `train`, sorted by name. Raises InputError for a missing or doubled test split, other folders than the classes, a
    class with no images, or a file that cannot be looked at.
    """
    train = root / "train"
    if not train.is_dir():
        return None
    held_out = [folder for folder in (root / "test", root / "val") if folder.is_dir()]
    if len(held_out) != 1:
        found = (
            "both test and val; move one away" if held_out else "neither test nor val; add one with the same classes"
        )
        raise InputError(f"{root}: expected train and one of test and val, each with a folder per class; found {found}")
    names = _subfolders(train) if classes is None else tuple(name.replace("/", "-") for name in classes)
    if not names:
        raise InputError(f"{train}: expected a folder per class, found none")
    sizes: dict[str, int] = {}
    files: list[tuple[str, ...]] = []
    labels: list[np.ndarray] = []
    for split in (train, held_out[0]):
        _check_folders(split, names)
        per_class = [_list_class(root, split / name, sizes) for name in names]
        files.append(tuple(file for of_class in per_class for file in of_class))
        labels.append(np.repeat(np.arange(len(names), dtype=np.int64), [len(of_class) for of_class in per_class]))
    digest = hashlib.sha256()
    for file in sorted(sizes):
        digest.update(os.fsencode(f"{file}\0{sizes[file]}\n"))
    return Tree(root, classes or names, files[0], labels[0], files[1], labels[1], digest.hexdigest())


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))


def _check_folders(split: Path, names: tuple[str, ...]) -> None:
    found = set(_subfolders(split))
    if found != set(names):
        missing, extra = sorted(set(names) - found), sorted(found - set(names))
        raise InputError(
            f"{split}: its folders are not the {len(names)} classes. "
            f"Missing: {some(missing)}. Not a class: {some(extra)}. Rename, add or move folders"
        )


def _list_class(root: Path, folder: Path, sizes: dict[str, int]) -> list[str]:
    found: list[str] = []
    for place, _, names in sorted(os.walk(folder, followlinks=True)):
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                path = os.path.join(place, name)  # noqa: PTH118  a Path for each of ImageNet's files is slow
                relative = path[len(str(root)) + 1 :].replace(os.sep, "/")
                try:
                    sizes[relative] = os.path.getsize(path)  # noqa: PTH202
                except OSError as error:
                    raise InputError(f"{path}: cannot be looked at ({error}); repair or remove it") from error
                found.append(relative)
    if not found:
        raise InputError(f"{folder}: the class has no images; expected files that end in {', '.join(EXTENSIONS)}")
    return found


def some(items: Sequence[str], between: str = ", ") -> str:
    """The first items of a list that may be too long for a message, and how many more there are."""
    shown = between.join(items[:NAMED_AT_MOST]) or "none"
    return shown if len(items) <= NAMED_AT_MOST else f"{shown}{between}and {len(items) - NAMED_AT_MOST} more"


@dataclass(frozen=True)
class Form:
    """How an image becomes an array: its shape (height, width, channels), and `resize`, the length in pixels that the
    short side gets before the center crop, or None where an image must have the shape already."""

    shape: tuple[int, int, int]
    resize: int | None


def decode(
    files: Sequence[Path], form: Form, cpus: int, scratch: Path, progress: Callable[[int], None]
) -> tuple[np.ndarray, list[str]]:
    """The images as uint8 [N, H, W, C], and one sentence for each file that is none (its row is then meaningless).

    The array lies in a nameless file in the folder `scratch`: it may exceed the memory, and leaves nothing behind.
    progress: told how many files are done, now and then. See `decode_one` for what is read and what is refused.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have switched it on for the whole process
    with tempfile.TemporaryFile(dir=scratch) as stream:
        images = np.memmap(stream, np.uint8, "w+", shape=(len(files), *form.shape))
    faults: list[str] = []

    def fill(row: int) -> str | None:
        try:
            images[row] = decode_one(files[row], form)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(cpus) as pool:
        for start in range(0, len(files), 256):  # not all at once: ImageNet would queue a million tasks
            rows = range(start, min(start + 256, len(files)))
            faults += [fault for fault in pool.map(fill, rows) if fault is not None]
            progress(rows.stop)
    return images, faults


def decode_one(file: Path, form: Form) -> np.ndarray:
    """One image as uint8 [H, W, C], by its content, whatever its extension.

    Colours become RGB (or grey, for one channel) as in torchvision's loader, Pillow's `convert`: grey is repeated, CMYK
    converted, a palette looked up, alpha dropped. EXIF orientation is not applied, as there. With `form.resize`: the
    short side is scaled to it, antialiased bilinear, and the center cropped, as torchvision's Resize and CenterCrop
    (He et al. 2016, section 3.4; Krizhevsky et al. 2012, section 2).

    Raises InputError with the path for a file that cannot be read or is cut short, no still image in one of FORMATS,
    more than 8 bits a channel, smaller than 2×2, or not of the form's shape where there is no `resize`. A JPEG whose
    compressed data were changed but still decode cannot be told from a good one.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.format == "PNG":
                image.verify()  # the only way to have Pillow check every chunk's CRC; it consumes the image
        with Image.open(file, formats=FORMATS) as image:
            # MPO is the still image of a camera, followed by its preview
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{file}: is animated or has several pages; expected one image")
            if image.mode not in EIGHT_BIT_MODES:
                raise InputError(f"{file}: has pixels of mode {image.mode}; expected 8 bits a channel")
            if min(image.size) < 2:
                raise InputError(f"{file}: is {image.width}×{image.height} pixels; expected at least 2×2")
            return _shaped(image, form, file)
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, LookupError, struct.error, zlib.error) as error:
        raise InputError(f"{file}: not a whole image ({error})") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{file}: too large ({error})") from error


def _shaped(image: Image.Image, form: Form, file: Path) -> np.ndarray:
    height, width, channels = form.shape
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when it goes from a transparent palette straight to RGB
    image = image.convert("RGB" if channels == 3 else "L")
    if form.resize is not None:
        short = min(image.size)
        wide, high = (int(form.resize * side / short) for side in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    elif image.size != (width, height):
        raise InputError(f"{file}: is {image.width}×{image.height} pixels; expected {width}×{height}")
    return np.asarray(image).reshape(form.shape)
