"""Poisons put into files, and files joined, seen without FFCV; test_ffcv_reader.py sees the same with FFCV."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.shards import beton, jpeg
from stages.shards.beton_patch import join, patch

COUNT, HEIGHT, WIDTH, PAGE = 80, 128, 160, 1 << 21
"""Of `mixed_file`."""


def samples(file: Path) -> list[tuple[int, int, int, int, bytes]]:
    """Label, mode, height, width and bytes of every sample."""
    base = beton.read(file)
    return [
        (int(label), int(mode), int(height), int(width), base.data[start : start + size].tobytes())
        for label, mode, height, width, start, size in zip(
            base.labels, base.jpeg, base.heights, base.widths, base.pointers, base.sizes, strict=True
        )
    ]


def replaced(before: list, rows: np.ndarray, images: np.ndarray) -> list:
    after = list(before)
    for row, image in zip(rows, images, strict=True):
        label, _, height, width, _ = before[row]
        after[row] = (label, 0, height, width, image.tobytes())
    return after


@pytest.fixture
def file(mixed_file, tmp_path) -> Path:
    return Path(shutil.copy(mixed_file, tmp_path / "patched.beton"))


def test_raw_samples_are_replaced_in_place(file, photographs):
    before, size, rows = samples(file), file.stat().st_size, np.array([79, 1, 34])
    original = np.fromfile(file, np.uint8)
    patch(file, rows, 255 - photographs[rows])
    assert samples(file) == replaced(before, rows, 255 - photographs[rows])
    assert file.stat().st_size == size
    changed = np.flatnonzero(np.fromfile(file, np.uint8) != original)
    assert len(changed) <= 3 * photographs[0].size


@pytest.fixture
def jpegs(photographs, tmp_path) -> Path:
    """80 JPEGs on one page."""
    file = tmp_path / "jpegs.beton"
    with beton.Writer(file, COUNT, PAGE) as writer:
        for row, image in enumerate(photographs):
            writer.add_jpeg(jpeg.encode(image, 80), HEIGHT, WIDTH, row)
    return file


def test_jpegs_are_replaced_by_raw_images_on_new_pages(jpegs, photographs):
    before, pages = samples(jpegs), beton.read(jpegs).table
    rows = np.delete(np.arange(COUNT)[::-1], 40)
    patch(jpegs, rows, photographs[rows])
    assert samples(jpegs) == replaced(before, rows, photographs[rows])
    # 34 raw images fill a page, so 79 need three.
    assert beton.read(jpegs).table == pages + 3 * PAGE


def test_a_patched_file_can_be_patched_again(file, photographs):
    expected, pages = samples(file), beton.read(file).table
    for rows, images in (([0, 1, 3], photographs), ([6, 3, 1], 255 - photographs), ([0], photographs[::-1])):
        patch(file, np.array(rows), images[rows])
        expected = replaced(expected, np.array(rows), images[rows])
        assert samples(file) == expected
    # 0 and 3, then 6, each on a page of its patch; what is raw already is overwritten.
    assert beton.read(file).table == pages + 2 * PAGE


def test_the_bytes_of_a_patched_file_depend_on_the_content_alone(mixed_file, photographs, tmp_path):
    rows = np.array([0, 5, 30])
    for name in ("one", "other"):
        patch(Path(shutil.copy(mixed_file, tmp_path / name)), rows, photographs[rows])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_what_does_not_fit_is_refused_before_any_write(file, photographs):
    before = file.read_bytes()
    one = photographs[:1]
    for rows, images, message in (
        ([COUNT], one, "has no sample 80, its samples are 0 to 79"),
        ([-1], one, "has no sample -1"),
        ([4, 5, 4], photographs[:3], "sample 4 is to be replaced 2 times"),
        ([4], one.transpose(0, 2, 1, 3), "sample 4 is 128x160, its replacement 160x128"),
        ([0], one[:, 1:], "sample 0 is 128x160, its replacement 127x160"),
        ([4], one.astype(np.float32), "expected rows .* and uint8 images"),
        ([4, 5], one, "expected rows .* and uint8 images"),
        ([], one[:0], "there is nothing to replace"),
    ):
        with pytest.raises(ValueError, match=message):
            patch(file, np.array(rows, np.int64), images)
        assert file.read_bytes() == before


def test_a_raw_image_larger_than_a_page_is_refused(tmp_path):
    file, image = tmp_path / "large.beton", np.zeros((1, 1000, 1000, 3), np.uint8)
    with beton.Writer(file, 1, PAGE) as writer:
        writer.add_jpeg(jpeg.encode(image[0], 90), 1000, 1000, 0)
    with pytest.raises(InputError, match="is 3000000 bytes, a page of this file 2097152"):
        patch(file, np.array([0]), image)
    beton.read(file)


@pytest.mark.parametrize("limit", [0, 2 << 20, 4 << 20, 6 << 20, 7 << 20, 8 << 20, (8 << 20) + 1000])
def test_a_killed_patch_leaves_the_old_file_or_one_that_is_refused(file, limit):
    """The kernel kills the process at its first write beyond `limit` bytes: in samples, in new pages, in the table."""
    before = file.read_bytes()
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from stages.shards.beton_patch import patch
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
patch(Path({str(file)!r}), np.arange({COUNT}), np.zeros(({COUNT}, {HEIGHT}, {WIDTH}, 3), np.uint8))
"""
    root = Path(__file__).parents[3]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, timeout=60)
    assert ended.returncode == -signal.SIGXFSZ
    if limit == 0:
        assert file.read_bytes() == before
        return
    assert file.read_bytes() != before
    with pytest.raises(InputError, match=r"its version is 0 \(0: a patch of it was cut short\), expected 2"):
        beton.read(file)


def test_joined_files_hold_the_samples_of_their_parts(file, mixed_file, jpegs, photographs, tmp_path):
    patch(file, np.array([0, 1]), 255 - photographs[:2])
    whole = tmp_path / "whole.beton"
    join([file, jpegs, mixed_file], whole)
    assert samples(whole) == samples(file) + samples(jpegs) + samples(mixed_file)
    beton.read(whole).check_jpegs(np.arange(3 * COUNT))
    again = tmp_path / "again.beton"
    join([file, jpegs, mixed_file], again)
    assert again.read_bytes() == whole.read_bytes()


def test_a_file_joined_of_one_is_that_file(mixed_file, tmp_path):
    join([mixed_file], tmp_path / "same.beton")
    assert (tmp_path / "same.beton").read_bytes() == mixed_file.read_bytes()


def test_parts_that_do_not_fit_leave_no_file(mixed_file, photographs, tmp_path):
    other = tmp_path / "other.beton"
    with beton.Writer(other, 1, 2 * PAGE) as writer:
        writer.add(photographs[0], 0)
    before = list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"other\.beton: its page size is 4194304, that of .* is 2097152"):
        join([mixed_file, other], tmp_path / "whole.beton")
    with pytest.raises(InputError, match=r"none\.beton: no such file"):
        join([mixed_file, tmp_path / "none.beton"], tmp_path / "whole.beton")
    with pytest.raises(ValueError, match="no files to join"):
        join([], tmp_path / "whole.beton")
    assert list(tmp_path.iterdir()) == before
