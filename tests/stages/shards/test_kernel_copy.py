"""Copies by the kernel, on the file system of the tests and, where there is one, on another."""

import os
from pathlib import Path

import numpy as np
import pytest

from stages.shards.kernel_copy import clone, copy_range


@pytest.fixture
def source(tmp_path) -> Path:
    file = tmp_path / "source"
    file.write_bytes(np.random.default_rng(0).bytes(3_000_001))
    return file


def test_a_clone_is_equal_and_apart(source, tmp_path):
    target, before = tmp_path / "target", source.read_bytes()
    clone(source, target)
    assert target.read_bytes() == before
    with target.open("r+b") as stream:
        stream.write(b"changed")
    assert source.read_bytes() == before and target.read_bytes() == b"changed" + before[7:]


def test_a_clone_to_another_file_system_is_a_copy(source):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == source.stat().st_dev:
        pytest.skip("/dev/shm is no other file system here")
    target = memory / f"brewline-{os.getpid()}"
    try:
        assert clone(source, target) is False
        assert target.read_bytes() == source.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def test_what_is_there_stays(source, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"here before")
    with pytest.raises(FileExistsError):
        clone(source, target)
    assert target.read_bytes() == b"here before"


def test_a_range_goes_where_it_is_sent(source, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(bytes(100))
    with source.open("rb") as read, target.open("r+b") as write:
        copy_range(read.fileno(), 2_000_000, write.fileno(), 50, 1_000_001)
        with pytest.raises(EOFError, match="ends at 3000001 bytes, expected 3000002"):
            copy_range(read.fileno(), 3_000_000, write.fileno(), 0, 2)
    assert target.read_bytes()[1:] == bytes(49) + source.read_bytes()[2_000_000:]
