"""Poisoned files told as pieces of a base that is read by ranges only, beside those that are made on a disk."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.shards import beton
from stages.shards.beton_patch import join, patch
from stages.shards.beton_remote import fill, outline, pieces
from stages.shards.pieces import Piece, Span


@dataclass
class Elsewhere:
    """A file that is read by ranges, and which were read."""

    file: Path
    read_ranges: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.file.stat().st_size

    def read(self, start: int, length: int) -> bytes:
        self.read_ranges.append((start, length))
        with self.file.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)


def put_together(some: list[Piece], files: list[Path]) -> bytes:
    whole = b""
    for piece in some:
        if isinstance(piece, Span):
            with files[piece.source].open("rb") as stream:
                stream.seek(piece.start)
                whole += stream.read(piece.length)
        else:
            whole += piece
    return whole


def outlines(files: list[Path], folder: Path) -> tuple[list[Elsewhere], list[Path]]:
    folder.mkdir()
    sources, made = [Elsewhere(file) for file in files], [folder / f"{index}.beton" for index in range(len(files))]
    for source, file in zip(sources, made, strict=True):
        outline(source, file)
    return sources, made


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["mixed_file"], [1, 2, 79, 40]),  # raw alone: in place
        (["mixed_file"], [0, 1, 78, 77, 3]),  # JPEGs too: pages are added
        (["ffcv_file"], [5, 0, 11, 3]),  # the label first, samples in no order
        (["mixed_file", "ffcv_file", "mixed_file"], [1, 79, 80, 159, 160, 238]),
        (["mixed_file", "ffcv_file"], []),
    ],
)
def test_pieces_make_the_file_that_a_disk_would_have(request, photographs, tmp_path, names, rows):
    files, chosen = [request.getfixturevalue(name) for name in names], np.array(rows, np.int64)
    images, expected = 255 - photographs[chosen % 80], tmp_path / "expected.beton"
    if len(files) == 1:
        shutil.copy(files[0], expected)
    else:
        join(files, expected)
    if rows:
        patch(expected, chosen, images)
    sources, outlined = outlines(files, tmp_path / "outlines")
    made = pieces(outlined, chosen, images)
    assert put_together(made, files) == expected.read_bytes()
    assert sum(piece.length for piece in made if isinstance(piece, Span)) > 0.5 * expected.stat().st_size
    tables = sum(length for source in sources for _, length in source.read_ranges)
    assert tables < 0.01 * expected.stat().st_size, "no image was read"


def test_an_outline_has_the_tables_and_what_it_is_filled_with(mixed_file, ffcv_file, tmp_path):
    files, rows = [mixed_file, ffcv_file], np.array([0, 1, 79, 80, 130])
    sources, made = outlines(files, tmp_path / "outlines")
    fill(sources, made, rows)
    for index, (file, outlined) in enumerate(zip(files, made, strict=True)):
        theirs, ours = beton.read(file), beton.read(outlined)
        for name in ("labels", "jpeg", "pointers", "sizes", "records"):
            assert np.array_equal(getattr(theirs, name), getattr(ours, name))
        for row in range(len(ours)):
            at = slice(ours.pointers[row], ours.pointers[row] + ours.sizes[row])
            assert np.array_equal(ours.data[at], theirs.data[at]) == (row + 80 * index in rows)
        assert outlined.stat().st_blocks * 512 < file.stat().st_size / 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "0 bytes, shorter than its header"),
        (lambda data: data[:1000], "1000 bytes, shorter than its header"),
        (lambda data: b"\0\0" + data[2:], "its version is 0"),
        (lambda data: data[:-24], "its allocation table is 1896 bytes, expected 1920 for 80 samples"),
        (lambda data: data[:8] + (1 << 60).to_bytes(8, "little") + data[16:], "its allocation table is at"),
    ],
)
def test_what_is_no_base_is_refused_by_its_outline_too(mixed_file, tmp_path, damage, message):
    bad = tmp_path / "bad.beton"
    bad.write_bytes(damage(mixed_file.read_bytes()))
    _, (made,) = outlines([bad], tmp_path / "outlines")
    with pytest.raises(InputError, match=message):
        beton.read(made)
