"""FFCV's `.beton` files, written and read without FFCV: the form in which people train at ImageNet's size.

FFCV itself can only write a file whole, through worker processes that hang when one fails, and believes every number
it reads: a wrong size is memory corruption in its decoder. So brewline writes the files itself, in order and always to
the same bytes, and `read` proves a file's tables before anybody reads through them. `beton_layout` has the layout.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from stages.config import InputError
from stages.shards import beton_layout as layout
from stages.shards import jpeg


@dataclass(frozen=True)
class Beton:
    """A `.beton` file whose tables are proved to agree (see `read`); its columns are in order of samples.

    page_size: bytes.  labels, heights, widths, pointers, sizes: int64 [N]; pointers and sizes in bytes.
    jpeg: bool [N], else raw RGB of 3·H·W bytes.  data: uint8, a read-only map of the whole file.
    records: [N], as in the file (see `beton_layout`).  table: where the pages end and the allocation table starts.
    """

    file: Path
    page_size: int
    labels: np.ndarray
    jpeg: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    pointers: np.ndarray
    sizes: np.ndarray
    data: np.memmap
    records: np.ndarray
    table: int

    def __len__(self) -> int:
        return len(self.labels)

    def check_jpegs(self, rows: np.ndarray) -> None:
        """Check that the JPEGs among these samples say the height and width that the file's records say.

        rows: int64 [P]. It is apart from `read` because it reads from every sample, not only tables: 5 µs each where
        they are in memory. Raises InputError that names the first sample that fails.
        """
        data = self.data.data
        for row in rows[self.jpeg[rows]]:
            start, said = self.pointers[row], (self.heights[row], self.widths[row])
            if (found := jpeg.shape(data[start : start + self.sizes[row]])) != said:
                raise InputError(
                    f"{self.file}: sample {row}: {jpeg.describe(found)}, the file's table says a JPEG of "
                    f"{said[0]}x{said[1]}; make the file again"
                )


class Writer:
    """Writes a `.beton` file, sample after sample: `with Writer(file, count) as writer: writer.add(image, label)`.

    file: gets its name only when whole, exactly `count` samples, and replaces one of that name; until then it is a
    temporary file beside it, removed on an error.  page_size: bytes, a power of two from 2 MiB to 2 GiB; no image may
    be larger. The bytes are a pure function of the arguments and the samples. Raises InputError for a bad page size,
    ValueError at the end where there are not `count` samples.
    """

    def __init__(self, file: Path, count: int, page_size: int = layout.PAGE_SIZE) -> None:
        if (fault := layout.page_size_fault(page_size)) is not None:
            raise InputError(f"{file}: page_size {fault}")
        if count < 1:
            raise ValueError(f"{file}: count is {count}, expected at least 1")
        self._file, self._page_size = file, page_size
        self._records, self._sizes = np.zeros(count, layout.IMAGE_FIRST), np.zeros(count, np.int64)
        self._added, self._at = 0, layout.pages_start(count, page_size)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stream = self._stack.enter_context(whole(self._file))
        self._stream.seek(self._at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._added != len(self._records):
                raise ValueError(f"{self._file}: {self._added} samples were added, expected {len(self._records)}")
            table = layout.up(self._at, self._page_size)
            write_tables(self._stream, self._page_size, table, self._records, self._sizes)

    def add(self, image: np.ndarray, label: int) -> None:
        """Add an image, uint8 [H, W, 3], as raw pixels. Raises InputError where it is larger than a page."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"{self._file}: sample {self._added}: {image.dtype} {image.shape}, not uint8 [H, W, 3]")
        height, width = image.shape[:2]
        self._append(np.ascontiguousarray(image).data, layout.RAW, height, width, label)

    def add_jpeg(self, data: bytes, height: int, width: int, label: int) -> None:
        """Add a JPEG file as it is. Raises InputError where it is not a JPEG of this size that FFCV can decode."""
        if (found := jpeg.shape(data)) != (height, width):
            raise InputError(
                f"{self._file}: sample {self._added}: {jpeg.describe(found)}, expected a JPEG of {height}x{width}; "
                "encode it again"
            )
        self._append(data, layout.JPEG, height, width, label)

    def _append(self, data: bytes | memoryview, mode: int, height: int, width: int, label: int) -> None:
        row, size = self._added, memoryview(data).nbytes
        if row == len(self._records):
            raise ValueError(f"{self._file}: more than the {row} samples it was to have")
        if size > self._page_size or max(height, width) > 0xFFFF:
            raise InputError(
                f"{self._file}: sample {row}: {height}x{width} pixels in {size} bytes; FFCV holds up to 65535x65535 in "
                f"a page, here {self._page_size} bytes: write with a larger page_size, or smaller images"
            )
        if self._at % self._page_size + size > self._page_size:
            self._at = layout.up(self._at, self._page_size)
            self._stream.seek(self._at)
        self._stream.write(data)
        self._records[row] = (mode, width, height, self._at, label)
        self._sizes[row] = size
        self._added, self._at = row + 1, self._at + size


@contextmanager
def whole(file: Path) -> Iterator[BinaryIO]:
    """A stream into a temporary file that gets the name `file` at the end, or is removed on an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        # Images larger than what is left of the buffer go past it: as fast as plain writes, and small ones gather.
        with temporary.open("wb", buffering=1 << 20) as stream:
            yield stream
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_tables(stream: BinaryIO, page_size: int, table: int, records: np.ndarray, sizes: np.ndarray) -> None:
    """Write all but the pages: allocation table at `table`, the pages' end, then records, fields, and header.

    records: layout.IMAGE_FIRST [N].  sizes: int64 [N], bytes.
    """
    stream.seek(table)
    stream.write(layout.allocations(records["pointer"], sizes).tobytes())
    stream.seek(layout.RECORDS)
    stream.write(records.tobytes())
    fields = np.array([(layout.IMAGE, b"image", b""), (layout.INT, b"label", b"")], layout.FIELD)
    header = np.array((layout.VERSION, len(fields), page_size, len(records), table), layout.HEADER)
    stream.seek(0)
    stream.write(header.tobytes() + fields.tobytes())


def read(file: Path) -> Beton:
    """Open a `.beton` file of images and int labels, brewline's or FFCV's, and prove everything its tables say.

    Every sample has one region of its own inside one page, of the size its record asks for. Only tables are read: see
    `Beton.check_jpegs` for what JPEGs say themselves. Raises InputError that names the file, the sample and the fault.
    """
    size = file.stat().st_size if file.is_file() else None
    if size is None or size < layout.RECORDS:
        found = "no such file" if size is None else f"{size} bytes, shorter than its header"
        raise InputError(f"{file}: {found}; expected an FFCV file (.beton)")
    mapped = np.memmap(file, np.uint8, "r")
    data = np.asarray(mapped)
    header = data[: layout.HEADER.itemsize].view(layout.HEADER)[0]
    page_size, count, table = int(header["page_size"]), int(header["samples"]), int(header["table"])
    fault = layout.header_fault(header) or layout.table_fault(count, page_size, table, size)
    if fault is not None:
        raise InputError(f"{file}: {fault}; make the file again")
    record = layout.record_type(file, data[layout.HEADER.itemsize : layout.RECORDS].view(layout.FIELD))
    records = np.array(data[layout.RECORDS : layout.RECORDS + count * record.itemsize].view(record))
    labels, heights, widths, pointers = (
        records[name].astype(np.int64) for name in ("label", "height", "width", "pointer")
    )
    mode = records["mode"]
    sizes = _sizes(file, np.array(data[table:].view(layout.ALLOCATION)), pointers)

    bad = _first_bad(file)
    bad(mode > layout.RAW, lambda row: f"its mode is {mode[row]}, expected 0 (JPEG) or 1 (raw)")
    bad((heights < 1) | (widths < 1), lambda row: f"is {heights[row]}x{widths[row]} pixels")
    expected = 3 * heights * widths
    bad(
        (mode == layout.RAW) & (sizes != expected),
        lambda row: f"is raw, {heights[row]}x{widths[row]} pixels, in {sizes[row]} bytes, expected {expected[row]}",
    )
    bad((sizes < 1) | (sizes > page_size), lambda row: f"is {sizes[row]} bytes in a page of {page_size}")
    first = layout.pages_start(count, page_size)
    bad(
        (pointers < first) | (pointers > table - sizes),
        lambda row: f"its {sizes[row]} bytes at {pointers[row]} are not in the pages, {first} to {table}",
    )
    bad(
        pointers % page_size + sizes > page_size,
        lambda row: f"its {sizes[row]} bytes at {pointers[row]} cross a page of {page_size} bytes",
    )
    order = np.argsort(pointers, kind="stable")
    overlaps = np.zeros(count, bool)
    overlaps[order[1:]] = pointers[order[1:]] < pointers[order[:-1]] + sizes[order[:-1]]
    bad(overlaps, lambda row: f"its {sizes[row]} bytes at {pointers[row]} overlap another sample's")
    return Beton(file, page_size, labels, mode == layout.JPEG, heights, widths, pointers, sizes, mapped, records, table)


def _sizes(file: Path, table: np.ndarray, pointers: np.ndarray) -> np.ndarray:
    """The samples' sizes, int64 [N], from a table with exactly one entry for each, pointing where its record does."""
    count, samples = len(table), table["sample"]
    outside = np.flatnonzero((samples < 0) | (samples >= count))
    if outside.size:
        raise InputError(
            f"{file}: entry {outside[0]} of the allocation table is of sample {samples[outside[0]]}, expected 0 to "
            f"{count - 1}; make the file again"
        )
    bad = _first_bad(file)
    entries = np.bincount(samples, minlength=count)
    bad(entries != 1, lambda row: f"has {entries[row]} entries in the allocation table, expected 1")
    entry = np.empty(count, np.int64)
    entry[samples] = np.arange(count)
    allocated = table["pointer"][entry]
    bad(allocated != pointers, lambda row: f"its record points to {pointers[row]}, the table to {allocated[row]}")
    return table["size"][entry]


def _first_bad(file: Path) -> Callable[[np.ndarray, Callable[[int], str]], None]:
    """A check over all samples: raises InputError with what is wrong with the first that is marked."""

    def check(marked: np.ndarray, what: Callable[[int], str]) -> None:
        rows = np.flatnonzero(marked)
        if rows.size:
            raise InputError(
                f"{file}: sample {rows[0]}: {what(int(rows[0]))} ({rows.size} of {marked.size} samples are like it); "
                "make the file again"
            )

    return check
