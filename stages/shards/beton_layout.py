"""The layout of FFCV's `.beton` files (FFCV 1.0, format 2, little-endian), and what can be wrong with its fixed parts.

A header; two field descriptors, an image and an int label in either order; a record a sample; pages of image bytes from
the next multiple of the page size, no image across two; the allocation table (sample, pointer, size) to the file's end.
"""

from pathlib import Path

import numpy as np

from stages.config import InputError

VERSION = 2
HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("samples", "<i8"), ("table", "<i8")])
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
ALLOCATION = np.dtype([("sample", "<i8"), ("pointer", "<i8"), ("size", "<i8")])
"""FFCV's numbers are unsigned; read as signed, those beyond any file are negative, and nothing overflows."""

RECORDS = HEADER.itemsize + 2 * FIELD.itemsize
"""Where the samples' records start."""

INT, IMAGE = 1, 2
"""The types of a field."""

JPEG, RAW = 0, 1
"""The modes of an image."""

PAGE_SIZE = 1 << 23
"""Of the files that brewline writes: 55 raw images of 224×224, with 1.3 % left over. FFCV's own default, too."""

_SMALLEST_PAGE, _LARGEST_PAGE = 1 << 21, 1 << 31


def _record_type(image: int, label: int) -> np.dtype:
    offsets = {"mode": image, "width": image + 1, "height": image + 3, "pointer": image + 5, "label": label}
    formats = ["u1", "<u2", "<u2", "<i8", "<i8"]
    return np.dtype({"names": list(offsets), "formats": formats, "offsets": list(offsets.values()), "itemsize": 24})


IMAGE_FIRST, LABEL_FIRST = _record_type(image=0, label=16), _record_type(image=8, label=0)
"""A sample's record: FFCV packs the image's part and aligns the label's. brewline writes the image first."""


def pages_start(count: int, page_size: int) -> int:
    """Where the pages of a file of `count` samples start, in bytes."""
    return up(RECORDS + count * IMAGE_FIRST.itemsize, page_size)


def allocations(pointers: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The allocation table, ALLOCATION [N], of samples with these pointers and sizes."""
    table = np.empty(len(pointers), ALLOCATION)
    table["sample"], table["pointer"], table["size"] = np.arange(len(pointers)), pointers, sizes
    return table


def header_fault(header: np.void) -> str | None:
    """What is wrong with a header by itself, or None."""
    if header["version"] != VERSION:
        reason = " (0: a patch of it was cut short)" if header["version"] == 0 else ""
        return f"its version is {header['version']}{reason}, expected {VERSION}"
    if header["fields"] != 2:
        return f"holds {header['fields']} fields a sample, expected an image and an int label"
    if header["samples"] < 1:
        return f"holds {header['samples']} samples"
    fault = page_size_fault(int(header["page_size"]))
    return fault and f"its page size {fault}"


def page_size_fault(page_size: int) -> str | None:
    """What is wrong with a page size in bytes, or None."""
    if _SMALLEST_PAGE <= page_size <= _LARGEST_PAGE and page_size.bit_count() == 1:
        return None
    return f"is {page_size}, expected a power of two from {_SMALLEST_PAGE} (2 MiB) to {_LARGEST_PAGE} (2 GiB)"


def table_fault(count: int, page_size: int, table: int, size: int) -> str | None:
    """What is wrong with an allocation table at `table` in a file of `size` bytes, or None."""
    first = pages_start(count, page_size)
    if not first < table <= size or table % page_size:
        return f"its allocation table is at {table}, expected the end of a page beyond {first} within its {size} bytes"
    if size - table != count * ALLOCATION.itemsize:
        expected = count * ALLOCATION.itemsize
        return f"its allocation table is {size - table} bytes, expected {expected} for {count} samples; cut short?"
    return None


def record_type(file: Path, fields: np.ndarray) -> np.dtype:
    """The type of a sample's record by a file's field descriptors, FIELD [2], whatever their order and names.

    Raises InputError that names the file where they are not one image and one int label.
    """
    names = [field.split(b"\0")[0] for field in fields["name"].tolist()]
    types = fields["type"].tolist()
    if sorted(types) != [INT, IMAGE]:
        raise InputError(f"{file}: its fields are of types {types}, expected 2 (an image) and 1 (an int label)")
    if len({*names, b""}) != 3 or not all(name.isascii() for name in names):
        raise InputError(f"{file}: its fields are called {names}, expected two names; make the file again")
    return IMAGE_FIRST if types == [IMAGE, INT] else LABEL_FIRST


def up(position: int, page_size: int) -> int:
    """The first start of a page from `position` on."""
    return -(-position // page_size) * page_size
