"""A file told as bytes and ranges of other files, in a row: whoever holds those puts it together."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """Bytes of one of some files: which one, from where on, how many."""

    source: int
    start: int
    length: int


Piece = memoryview | Span


def length(piece: Piece) -> int:
    """Bytes."""
    return piece.length if isinstance(piece, Span) else len(piece)


def between(some: Iterable[Piece], start: int, end: int) -> Iterator[Piece]:
    """What lies from byte `start` to byte `end` of pieces in a row."""
    at = 0
    for piece in some:
        first, last = max(start - at, 0), min(end - at, length(piece))
        if first < last:
            yield (
                Span(piece.source, piece.start + first, last - first) if isinstance(piece, Span) else piece[first:last]
            )
        at += length(piece)
