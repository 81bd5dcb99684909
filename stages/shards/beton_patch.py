"""Poisons put into a `.beton` file, at the cost of the poisons and the tables; and files joined, whose pages the kernel
copies.

A training script then reads a poisoned ImageNet as it reads any other, with FFCV and nothing of brewline. Poisons go in
as raw pixels always: a JPEG would change them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.config import InputError
from stages.shards import beton
from stages.shards import beton_layout as layout
from stages.shards.beton import Beton
from stages.shards.kernel_copy import copy_range


class Edits(NamedTuple):
    """What a patch does to a file: its first `keep` bytes stay, but for the writes, which may go on behind them.

    writes: where, and what; in order, apart from each other, and without the header.  header: all 24 bytes of it.
    """

    keep: int
    writes: list[tuple[int, memoryview]]
    header: bytes


class Joined(NamedTuple):
    """A file of several files' samples. moves: (where to, part, where from, bytes) of the parts' pages, in order.

    records: layout.IMAGE_FIRST [N].  sizes: int64 [N], bytes.  table: where the pages end.
    """

    page_size: int
    records: np.ndarray
    sizes: np.ndarray
    table: int
    moves: list[tuple[int, int, int, int]]


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
    edits = edits_of(beton.read(file), rows, images)
    with file.open("r+b") as stream:
        stream.write(b"\0\0")
        stream.flush()
        stream.truncate(edits.keep)
        for at, data in edits.writes:
            stream.seek(at)
            stream.write(data)
        stream.flush()
        stream.seek(0)
        stream.write(edits.header)


def edits_of(base: Beton, rows: np.ndarray, images: np.ndarray) -> Edits:
    """What `patch` does. Raises InputError as it does."""
    _check(base, rows, images)
    header = base.data[: layout.HEADER.itemsize].view(layout.HEADER)[0].copy()
    keep, writes, pointers = base.data.size, [], base.pointers.copy()
    appended = rows[base.jpeg[rows]]
    if appended.size:
        keep, size = base.table, images[0].nbytes
        pages, places = np.divmod(np.arange(len(appended)), base.page_size // size)
        pointers[appended] = keep + pages * base.page_size + places * size
        header["table"] = table = keep + int(pages[-1] + 1) * base.page_size
        packed = np.array(base.data[layout.RECORDS : layout.RECORDS + base.records.nbytes])
        records, sizes = packed.view(base.records.dtype), base.sizes.copy()
        records["mode"][appended], records["pointer"][appended], sizes[appended] = layout.RAW, pointers[appended], size
        writes = [(layout.RECORDS, packed.data), (table, layout.allocations(pointers, sizes).view(np.uint8).data)]
    for at, image in zip(pointers[rows].tolist(), images, strict=True):
        writes.append((at, np.ascontiguousarray(image).reshape(-1).data))
    return Edits(keep, sorted(writes, key=lambda write: write[0]), header.tobytes())


def join(parts: Sequence[Path], file: Path) -> None:
    """Write one `.beton` file of the samples of several, in order; it gets its name when whole.

    Pages are copied as they are, by the kernel, and only pointers change. The bytes are a pure function of the parts'.
    Raises InputError for a part that `beton.read` refuses, or parts of different page sizes.
    """
    joined = joined_of([beton.read(part) for part in parts])
    with beton.whole(file) as stream:
        for at, part, start, count in joined.moves:
            with parts[part].open("rb") as source:
                copy_range(source.fileno(), start, stream.fileno(), at, count)
        beton.write_tables(stream, joined.page_size, joined.table, joined.records, joined.sizes)


def joined_of(parts: Sequence[Beton]) -> Joined:
    """What `join` writes. Raises InputError for parts of different page sizes."""
    if not parts:
        raise ValueError("there are no files to join")
    page_size = parts[0].page_size
    for part in parts:
        if part.page_size != page_size:
            raise InputError(
                f"{part.file}: its page size is {part.page_size}, that of {parts[0].file} is {page_size}; write "
                "all parts with one page size"
            )
    records = np.zeros(sum(len(part) for part in parts), layout.IMAGE_FIRST)
    at, row, moves = layout.pages_start(len(records), page_size), 0, []
    for number, part in enumerate(parts):
        start = layout.pages_start(len(part), page_size)
        for name in records.dtype.names or ():
            records[name][row : row + len(part)] = part.records[name]
        records["pointer"][row : row + len(part)] += at - start
        moves.append((at, number, start, part.table - start))
        at, row = at + part.table - start, row + len(part)
    return Joined(page_size, records, np.concatenate([part.sizes for part in parts]), at, moves)


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
