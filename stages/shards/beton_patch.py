"""Poisons put into a `.beton` file, at the cost of the poisons and the tables; and files joined, whose pages the kernel
copies.

A training script then reads a poisoned ImageNet as it reads any other, with FFCV and nothing of brewline. Poisons go in
as raw pixels always: a JPEG would change them.
"""

from collections.abc import Sequence
from io import BufferedRandom
from pathlib import Path

import numpy as np

from stages.config import InputError
from stages.shards import beton
from stages.shards import beton_layout as layout
from stages.shards.beton import Beton
from stages.shards.kernel_copy import copy_range


def patch(file: Path, rows: np.ndarray, images: np.ndarray) -> None:
    """Replace samples of a writable file by raw images; labels and all other samples stay as they are.

    rows: int64 [P], no two alike.  images: uint8 [P, H, W, 3], of the size of the samples they replace. Raw samples are
    overwritten where they are; for JPEGs, pages are added behind the last one, and their old bytes stay, unused.
    It costs the tables (48 bytes a sample) and P images, nothing of the other images.

    The header's version is 0 from before the first write to after the last, so a file whose patch was killed is refused
    by `beton.read` and by FFCV, however far it got; what it held is lost. So patch a clone of temporary name and rename
    it. This orders the writes of a process that dies, not of a machine that does.
    Raises InputError, before any write, for a file that `beton.read` refuses, or rows and images that do not fit it.
    """
    base = beton.read(file)
    _check(base, rows, images)
    header = base.data[: layout.HEADER.itemsize].view(layout.HEADER)[0].copy()
    with file.open("r+b") as stream:
        _put(stream, 0, b"\0\0")
        stream.flush()
        in_place = np.flatnonzero(~base.jpeg[rows])
        for index in in_place:
            _put(stream, base.pointers[rows[index]], images[index])
        appended = np.flatnonzero(base.jpeg[rows])
        if appended.size:
            header["table"] = _append(stream, base, rows[appended], images[appended])
        stream.flush()
        _put(stream, 0, header.tobytes())


def join(parts: Sequence[Path], file: Path) -> None:
    """Write one `.beton` file of the samples of several, in order; it gets its name when whole.

    Pages are copied as they are, by the kernel, and only pointers change. The bytes are a pure function of the parts'.
    Raises InputError for a part that `beton.read` refuses, or parts of different page sizes.
    """
    betons = [beton.read(part) for part in parts]
    if not betons:
        raise ValueError(f"{file}: there are no files to join")
    page_size = betons[0].page_size
    for part in betons:
        if part.page_size != page_size:
            raise InputError(
                f"{part.file}: its page size is {part.page_size}, that of {betons[0].file} is {page_size}; write "
                "all parts with one page size"
            )
    records = np.zeros(sum(len(part) for part in betons), layout.IMAGE_FIRST)
    at, row = layout.pages_start(len(records), page_size), 0
    with beton.whole(file) as stream:
        for part in betons:
            start = layout.pages_start(len(part), page_size)
            with part.file.open("rb") as source:
                copy_range(source.fileno(), start, stream.fileno(), at, part.table - start)
            for name in records.dtype.names or ():
                records[name][row : row + len(part)] = part.records[name]
            records["pointer"][row : row + len(part)] += at - start
            at, row = at + part.table - start, row + len(part)
        beton.write_tables(stream, page_size, at, records, np.concatenate([part.sizes for part in betons]))


def _append(stream: BufferedRandom, base: Beton, rows: np.ndarray, images: np.ndarray) -> int:
    """Put images on new pages instead of the JPEGs of `rows`; gives where the new allocation table starts."""
    size = images[0].nbytes
    pages, places = np.divmod(np.arange(len(rows)), base.page_size // size)
    table = base.table + int(pages[-1] + 1) * base.page_size
    pointers, sizes = base.pointers.copy(), base.sizes.copy()
    pointers[rows] = base.table + pages * base.page_size + places * size
    sizes[rows] = size
    records = base.records[rows]
    records["mode"], records["pointer"] = layout.RAW, pointers[rows]
    stream.truncate(base.table)
    for pointer, image in zip(pointers[rows], images, strict=True):
        _put(stream, pointer, image)
    for row, record in zip(rows, records, strict=True):
        _put(stream, layout.RECORDS + row * records.itemsize, record.tobytes())
    _put(stream, table, layout.allocations(pointers, sizes).tobytes())
    return table


def _put(stream: BufferedRandom, at: int, data: bytes | np.ndarray) -> None:
    stream.seek(at)
    stream.write(np.ascontiguousarray(data).data if isinstance(data, np.ndarray) else data)


def _check(base: Beton, rows: np.ndarray, images: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or rows.shape != images.shape[:1]:
        raise ValueError(f"expected rows [P] and uint8 images [P, H, W, 3], found {rows.shape}, {images.shape}")
    if len(rows) == 0:
        raise ValueError(f"{base.file}: there is nothing to replace")
    outside = rows[(rows < 0) | (rows >= len(base))]
    if outside.size:
        raise InputError(f"{base.file}: has no sample {outside[0]}, its samples are 0 to {len(base) - 1}")
    found, times = np.unique(rows, return_counts=True)
    if (times > 1).any():
        raise InputError(
            f"{base.file}: sample {found[times > 1][0]} is to be replaced {times.max()} times, expected once"
        )
    height, width = images.shape[1:3]
    wrong = np.flatnonzero((base.heights[rows] != height) | (base.widths[rows] != width))
    if wrong.size:
        row = rows[wrong[0]]
        raise InputError(
            f"{base.file}: sample {row} is {base.heights[row]}x{base.widths[row]}, its replacement "
            f"{height}x{width}; a poison has the size of the image it replaces"
        )
    if base.jpeg[rows].any() and images[0].nbytes > base.page_size:
        raise InputError(
            f"{base.file}: a raw image of {height}x{width} is {images[0].nbytes} bytes, a page of this file "
            f"{base.page_size}; write the file with larger pages"
        )
