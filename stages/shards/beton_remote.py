"""A poisoned `.beton` of a base that lies elsewhere, such as in a bucket, and is not brought here.

Only tables and a few samples are read, into an outline: a sparse file of the base's size that every reader of `.beton`
files takes for the base, as long as no other sample is read through it. What is to be made is told as pieces, bytes
and ranges of the base, which whoever holds the base puts together.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from os import pwrite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import numpy as np

from stages.shards import beton
from stages.shards import beton_layout as layout
from stages.shards.beton_patch import edits_of, joined_of
from stages.shards.pieces import Piece, Span, between, length

AT_ONCE = 16
"""Samples that are read at once."""


class Ranged(Protocol):
    """A file somewhere."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Exactly these bytes. Threads may call it."""
        ...


def outline(source: Ranged, file: Path) -> None:
    """Make `file` a sparse file of the source's size that has its tables: 48 bytes a sample are read.

    Nothing is proved: `beton.read` refuses what it is made of where its tables are wrong.
    """
    head = source.read(0, min(source.size, layout.RECORDS))
    with file.open("xb") as stream:
        stream.write(head)
        if len(head) == layout.RECORDS:
            header = np.frombuffer(head, layout.HEADER, 1)[0]
            count, table = int(header["samples"]), int(header["table"])
            whole = layout.header_fault(header) is None
            if whole and layout.table_fault(count, int(header["page_size"]), table, source.size) is None:
                stream.write(source.read(layout.RECORDS, count * layout.IMAGE_FIRST.itemsize))
                stream.seek(table)
                stream.write(source.read(table, source.size - table))
        stream.truncate(source.size)


def fill(sources: Sequence[Ranged], files: Sequence[Path], rows: np.ndarray) -> None:
    """Bring samples into the outlines of the files of one base.

    rows: int64, in the order of all files' samples. Raises InputError for an outline that `beton.read` refuses.
    """
    bases = [beton.read(file) for file in files]
    ends = accumulate((len(base) for base in bases), initial=0)
    for source, base, (first, end) in zip(sources, bases, pairwise(ends), strict=True):
        mine = rows[(rows >= first) & (rows < end)] - first
        with base.file.open("r+b") as stream, ThreadPoolExecutor(AT_ONCE) as pool:

            def bring(place: tuple[int, int], source: Ranged = source, to: int = stream.fileno()) -> None:
                pwrite(to, source.read(*place), place[0])

            for _ in pool.map(bring, zip(base.pointers[mine].tolist(), base.sizes[mine].tolist(), strict=True)):
                pass


def pieces(parts: Sequence[Path], rows: np.ndarray, images: np.ndarray) -> list[Piece]:
    """What makes the file that `clone` of one part, or `join` of several, and then `patch` make, byte for byte.

    parts: a base's files, or outlines of them.  rows, images: as `patch` takes them, or none. Raises InputError as
    these do.
    """
    bases = [beton.read(part) for part in parts]
    if len(bases) == 1:
        return _edited([Span(0, 0, bases[0].data.size)], bases[0], rows, images)
    joined = joined_of(bases)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "joined.beton"
        with beton.whole(file) as stream:
            beton.write_tables(stream, joined.page_size, joined.table, joined.records, joined.sizes)
        whole = beton.read(file)
        spans = [Span(part, start, length) for _, part, start, length in joined.moves]
        head = memoryview(whole.data[: joined.moves[0][0]].tobytes())
        return _edited([head, *spans, memoryview(whole.data[joined.table :].tobytes())], whole, rows, images)


def _edited(base_pieces: list[Piece], base: beton.Beton, rows: np.ndarray, images: np.ndarray) -> list[Piece]:
    if not rows.size:
        return base_pieces
    edits = edits_of(base, rows, images)
    writes = edits.writes
    if edits.header != base.data[: len(edits.header)].tobytes():
        writes = [(0, memoryview(edits.header)), *writes]
    made: list[Piece] = []
    at = 0
    for start, data in writes:
        made += between(base_pieces, at, min(start, edits.keep))
        made += [memoryview(bytes(max(0, start - max(at, edits.keep)))), data]
        at = start + len(data)
    return [piece for piece in (*made, *between(base_pieces, at, edits.keep)) if length(piece)]
