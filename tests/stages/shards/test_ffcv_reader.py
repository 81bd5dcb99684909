"""FFCV itself on brewline's files, and brewline on FFCV's: both ways, the same pixels and labels."""

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.shards import beton, ffcv_reader, jpeg
from stages.shards.beton_patch import join, patch
from stages.shards.ffcv_reader import decode_jpegs, read_back, require_ffcv
from stages.shards.jpeg_pixels import pixels_of_beton

if importlib.util.find_spec("ffcv") is None:
    pytest.skip("FFCV is not installed: pip install -c constraints.txt -e '.[ffcv]'", allow_module_level=True)

COUNT, HEIGHT, WIDTH = 80, 128, 160
"""Of `mixed_file`."""

POISONED = np.array([79, 0, 1, 3, 40])
"""Rows of `mixed_file` that are patched: JPEGs and raw images."""


def decoded(file: Path) -> np.ndarray:
    """All images of a file as brewline reads them."""
    return np.asarray(pixels_of_beton(beton.read(file)))


@pytest.fixture(scope="module")
def patched(mixed_file, photographs, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("patched") / "patched.beton"
    file.write_bytes(mixed_file.read_bytes())
    patch(file, POISONED, 255 - photographs[POISONED])
    return file


@pytest.fixture(scope="module")
def by_ffcv(mixed_file, patched, ffcv_file, tmp_path_factory) -> dict[str, tuple[Path, np.ndarray, np.ndarray]]:
    """What FFCV's Loader gives for each kind of file: its images and labels. Each takes it 10 s to compile."""
    joined = tmp_path_factory.mktemp("joined") / "joined.beton"
    join([ffcv_file, patched, mixed_file], joined)
    given = {}
    for name, file in {"ours": mixed_file, "theirs": ffcv_file, "joined": joined}.items():
        # Backwards, and one of them before: rows come in the order asked for.
        images, labels = read_back(file, [COUNT - 1, *range(len(beton.read(file)))[::-1]])
        assert np.array_equal(images[0], images[::-1][COUNT - 1]) and labels[0] == labels[::-1][COUNT - 1]
        given[name] = (file, images[:0:-1], labels[:0:-1])
    return given


def test_ffcv_reads_what_is_written(by_ffcv, photographs):
    _, images, labels = by_ffcv["ours"]
    assert labels.dtype == np.int64 and labels.tolist() == [3 - row for row in range(COUNT)]
    raw = np.arange(COUNT) % 3 != 0
    assert np.array_equal(images[raw], photographs[raw])
    assert np.abs(images[~raw].astype(int) - photographs[~raw]).mean() < 4


def test_what_ffcv_writes_is_read(by_ffcv, photographs, ffcv_file):
    file = beton.read(ffcv_file)
    assert file.labels.tolist() == [7 * row - 100 for row in range(COUNT)]
    assert 0 < file.jpeg.sum() < COUNT and (np.diff(file.pointers) < 0).any()
    file.check_jpegs(np.arange(COUNT))
    images = decoded(ffcv_file)
    assert np.array_equal(images[~file.jpeg], photographs[~file.jpeg])
    assert np.abs(images[file.jpeg].astype(int) - photographs[file.jpeg]).mean() < 4


def test_brewline_and_ffcv_see_the_very_same_pixels(by_ffcv):
    for file, images, labels in by_ffcv.values():
        assert np.array_equal(decoded(file), images)
        assert np.array_equal(beton.read(file).labels, labels)


def test_ffcv_sees_the_poisons_and_all_others_as_before(by_ffcv, photographs):
    _, images, labels = by_ffcv["joined"]
    theirs, patched, ours = np.split(images, 3)
    assert np.array_equal(patched[POISONED], 255 - photographs[POISONED])
    assert np.array_equal(np.delete(patched, POISONED, 0), np.delete(ours, POISONED, 0))
    assert np.array_equal(ours, by_ffcv["ours"][1]) and np.array_equal(theirs, by_ffcv["theirs"][1])
    _, _, of_theirs = by_ffcv["theirs"]
    _, _, of_ours = by_ffcv["ours"]
    assert np.array_equal(labels, np.concatenate([of_theirs, of_ours, of_ours]))


def test_what_ffcv_must_not_read_is_refused_before(mixed_file, photographs, tmp_path):
    for rows in ([], [COUNT], [-1]):
        with pytest.raises(InputError, match="expected some of 0 to 79"):
            read_back(mixed_file, rows)
    lie = np.fromfile(mixed_file, np.uint8)
    lie[beton.read(mixed_file).pointers[0]] = 0
    lie.tofile(tmp_path / "lie.beton")
    with pytest.raises(InputError, match=r"lie\.beton: sample 0: is no 8-bit JPEG"):
        read_back(tmp_path / "lie.beton", [0])
    with beton.Writer(tmp_path / "sizes.beton", 2) as writer:
        writer.add(photographs[0], 0)
        writer.add(photographs[0][:, :100], 0)
    with pytest.raises(InputError, match=r"sizes\.beton: has images of 2 sizes"):
        read_back(tmp_path / "sizes.beton", [0])


def test_a_reader_that_takes_too_long_is_ended(mixed_file):
    with pytest.raises(InputError, match=r"mixed\.beton: FFCV did not read it in 0.5 seconds"):
        read_back(mixed_file, [0], timeout=0.5)


def test_a_reader_that_dies_says_how(mixed_file):
    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    parent = (entry / "stat").read_text().rsplit(")")[-1].split()[1]
                    if parent == str(os.getpid()) and b"stages.shards.ffcv_reader" in (entry / "cmdline").read_bytes():
                        os.kill(int(entry.name), signal.SIGKILL)
                        return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(InputError, match=r"mixed\.beton: FFCV's reader ended with SIGKILL: it said nothing"):
        read_back(mixed_file, [0], timeout=60)
    killer.join()


def test_a_killed_patch_is_refused_by_ffcv_too(patched, tmp_path):
    from ffcv.reader import Reader

    file = tmp_path / "killed.beton"
    file.write_bytes(bytes(2) + patched.read_bytes()[2:])
    with pytest.raises(AssertionError, match="format mismatch"):
        Reader(str(file))


def test_where_ffcv_is_missing_the_message_says_what_to_install(monkeypatch):
    ffcv_reader._library.cache_clear()
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("sys.path_importer_cache", {})
    monkeypatch.delitem(sys.modules, "ffcv", raising=False)
    with pytest.raises(InputError, match=r"ffcv.*apt-get install pkg-config .* g\+\+.* -e '\.\[ffcv\]'"):
        require_ffcv()


def test_damaged_jpegs_are_refused_or_decoded_and_never_crash(photographs):
    """Whatever bytes change, each row is either refused by its number or decoded inside its own image."""
    whole = np.frombuffer(jpeg.encode(photographs[0], 75), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(600):
        data = whole.copy()
        if trial % 3 == 0:
            data = data[: rng.integers(0, len(data))].copy()
        else:
            # Headers, where lies about sizes and tables are, are hit as often as the pixels behind them.
            places = rng.integers(0, 700 if trial % 3 == 1 else len(data), rng.integers(1, 6))
            data[places] = rng.integers(0, 256, len(places))
        guarded = np.full((3, HEIGHT, WIDTH, 3), 77, np.uint8)
        try:
            decode_jpegs([data], guarded[1:2], [17])
        except InputError as error:
            refused += 1
            assert str(error).startswith("image 17: ")
        assert (guarded[[0, 2]] == 77).all()
    assert 200 < refused < 600


def test_the_damaged_row_is_named(photographs):
    encoded = [jpeg.encode(image, 90) for image in photographs[:8]]
    for damage in (
        lambda data: data[:-500],
        lambda data: data.replace(b"\xff\xc0\x00\x11\x08\x00\x80", b"\xff\xc0\x00\x11\x08\x00\x81"),
    ):
        files = [damage(data) if row in (5, 6) else data for row, data in enumerate(encoded)]
        sources = [np.frombuffer(data, np.uint8) for data in files]
        with pytest.raises(InputError, match="image 105: "):
            decode_jpegs(sources, np.empty((8, HEIGHT, WIDTH, 3), np.uint8), range(100, 108))


def test_what_is_no_place_for_images_is_refused(photographs):
    data = np.frombuffer(jpeg.encode(photographs[0], 90), np.uint8)
    good = np.empty((1, HEIGHT, WIDTH, 3), np.uint8)
    for out in (good.astype(np.float32), good[:, :, ::-1], np.empty((2, HEIGHT, WIDTH, 3), np.uint8)):
        with pytest.raises(ValueError, match="out is"):
            decode_jpegs([data], out, [0])
