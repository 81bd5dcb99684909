"""Members of tars as Python and GNU tar write them, and every damage that must not pass for images."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.config import InputError
from stages.data.tars import BLOCK, members, read

FILES = [(f"n{number}.JPEG", os.urandom(size)) for number, size in enumerate((0, 1, 511, 512, 513, 5000))]
KINDS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def contents(file: Path, within: str | None = None) -> list[tuple[str, bytes]]:
    outer = members(file)
    found = members(file, next(member for member in outer if member.name == within)) if within else outer
    return [(member.name, read(file, *member)) for member in found]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "a.tar").write_bytes(content)
        return tmp_path / "a.tar"

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_members_of_a_tar_and_of_a_tar_in_a_tar_are_read_in_place(
    tar_of: Callable[..., bytes], written: Callable[[bytes], Path], kind: str
) -> None:
    inner = tar_of(FILES, KINDS[kind])
    file = written(tar_of([("first.tar", tar_of([])), ("second.tar", inner)], KINDS[kind]))
    assert contents(file) == [("first.tar", tar_of([])), ("second.tar", inner)]
    assert contents(file, "first.tar") == []
    assert contents(file, "second.tar") == FILES


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_members_of_gnu_tars_are_read_and_folders_left_out(tmp_path: Path, form: str) -> None:
    if not shutil.which("tar"):
        pytest.skip("there is no tar command")
    (tmp_path / "folder").mkdir()
    for name, data in FILES:
        (tmp_path / "folder" / name).write_bytes(data)
    subprocess.run(["tar", "cf", "a.tar", f"--format={form}", "--sort=name", "./folder"], cwd=tmp_path, check=True)
    found = members(tmp_path / "a.tar")
    assert [member.name for member in found] == [f"./folder/{name}" for name, _ in FILES]
    for (name, data), member in zip(FILES, found, strict=True):
        assert read(tmp_path / "a.tar", name, member.offset, member.size) == data


def test_a_name_may_be_in_two_parts(tar_of: Callable[..., bytes], written: Callable[[bytes], Path]) -> None:
    name = f"{'long' * 20}/{'name' * 20}.JPEG"
    assert [member.name for member in members(written(tar_of([(name, b"data")])))] == [name]


def linked(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        link = tarfile.TarInfo("link.JPEG")
        link.type, link.linkname = kind, "n1.JPEG"
        tar.addfile(link)
    return stream.getvalue()


def test_what_is_no_whole_tar_of_plain_files_is_refused(
    tar_of: Callable[..., bytes], written: Callable[[bytes], Path], tmp_path: Path
) -> None:
    good = tar_of(FILES)
    ends = good.rindex(b"n5.JPEG")
    for content, message in (
        (b"", "cut short at byte 0"),
        (good[: ends + 3000], "cut short at byte"),  # in the middle of an image
        (good[: ends + BLOCK + 5120], "cut short at byte"),  # after the last image: no end mark
        (b"text, no tar\n" * 100, "no tar header at byte 0"),
        (good[:3] + b"X" + good[4:], "no tar header at byte 0"),
        (good[:BLOCK] + b"\1" + good[BLOCK + 1 :], f"no tar header at byte {BLOCK}"),
        (linked(tarfile.SYMTYPE), "link.JPEG at byte 0 is no plain file"),
        (linked(tarfile.LNKTYPE), "link.JPEG at byte 0 is no plain file"),
        (tar_of([("x" * 200 + ".JPEG", b"data")], tarfile.GNU_FORMAT), "is no plain file with a name of up to 100"),
        (tar_of([("x" * 200 + ".JPEG", b"data")], tarfile.PAX_FORMAT), "is no plain file with a name of up to 100"),
    ):
        with pytest.raises(InputError, match=f"{tmp_path / 'a.tar'}: .*{message}"):
            members(written(content))
    with pytest.raises(InputError, match=f"{tmp_path / 'a.tar'}: inner.tar: .* at byte {BLOCK + ends + BLOCK + 5120}"):
        file = written(tar_of([("inner.tar", good[: ends + BLOCK + 5120])]))
        members(file, members(file)[0])
    with pytest.raises(InputError, match=r"no\.tar: cannot be read"):
        members(tmp_path / "no.tar")


def test_a_tar_that_changed_after_it_was_listed_is_noticed(
    tar_of: Callable[..., bytes], written: Callable[[bytes], Path]
) -> None:
    file = written(tar_of(FILES))
    *_, last = members(file)
    assert read(file, *last) == FILES[-1][1]
    for changed, message in (
        (tar_of(FILES[1:]), "no tar header|now n"),
        (tar_of([*FILES[:-1], ("n6.JPEG", FILES[-1][1])]), r"now n6\.JPEG of 5000 bytes"),
        (tar_of([*FILES[:-1], ("n5.JPEG", b"short"), FILES[-1]]), r"now n5\.JPEG of 5 bytes"),
        (tar_of(FILES[:2]), "is shorter|no tar header"),
        (b"", "is shorter"),
    ):
        with pytest.raises(InputError, match=rf"n5\.JPEG: .*({message})"):
            read(written(changed), *last)
    file.unlink()
    with pytest.raises(InputError, match=r"n5\.JPEG: cannot be read"):
        read(file, *last)
