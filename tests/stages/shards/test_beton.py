"""`.beton` files without FFCV: what is written is read, and every lie of a file's tables is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.config import InputError
from stages.shards import beton, jpeg
from stages.shards import beton_layout as layout

COUNT, HEIGHT, WIDTH, PAGE = 80, 128, 160, 1 << 21
"""Of `mixed_file`."""
RAW_SIZE = 3 * HEIGHT * WIDTH


def test_what_is_written_is_read(photographs, mixed_file):
    file = beton.read(mixed_file)
    assert len(file) == COUNT and file.page_size == PAGE
    assert file.labels.tolist() == [3 - row for row in range(COUNT)]
    assert file.jpeg.tolist() == [row % 3 == 0 for row in range(COUNT)]
    assert set(file.heights) == {HEIGHT} and set(file.widths) == {WIDTH}
    for row, image in enumerate(photographs):
        stored = file.data[file.pointers[row] : file.pointers[row] + file.sizes[row]].tobytes()
        assert stored == (jpeg.encode(image, 90) if row % 3 == 0 else image.tobytes())
    file.check_jpegs(np.arange(COUNT))
    with pytest.raises(ValueError, match="read-only"):
        file.data[file.pointers[1]] = 0


def test_the_bytes_depend_on_the_content_alone(photographs, tmp_path):
    for name in ("one", "other"):
        with beton.Writer(tmp_path / name, 40, PAGE) as writer:
            for row in range(40):
                # A view that is not contiguous holds the same pixels.
                image = photographs[row] if name == "one" else np.asfortranarray(photographs[row])
                writer.add(image, row)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_images_of_any_size_and_the_smallest_and_largest_labels(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((1, 1), (1, 60000), (700, 998), (1, 1))]
    labels = [-(2**63), 0, 2**63 - 1, 5]
    with beton.Writer(tmp_path / "any.beton", 4, PAGE) as writer:
        for image, label in zip(images, labels, strict=True):
            writer.add(image, label)
    file = beton.read(tmp_path / "any.beton")
    assert file.labels.tolist() == labels
    for row, image in enumerate(images):
        assert (file.heights[row], file.widths[row]) == image.shape[:2]
        assert np.array_equal(file.data[file.pointers[row] :][: image.size], image.reshape(-1))


@pytest.mark.parametrize("added", [2, 4])
def test_a_file_of_another_count_gets_no_name(photographs, tmp_path, added):
    file = tmp_path / "short.beton"
    message = r"short\.beton: (2 samples were added, expected 3|more than the 3 samples)"
    with pytest.raises(ValueError, match=message), beton.Writer(file, 3) as writer:
        for row in range(added):
            writer.add(photographs[row], row)
    assert not list(tmp_path.iterdir())


def test_an_error_between_samples_leaves_nothing_and_keeps_the_file_that_was_there(photographs, tmp_path):
    file = tmp_path / "old.beton"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), beton.Writer(file, 2) as writer:
        writer.add(photographs[0], 0)
        raise KeyboardInterrupt
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_killed_writer_leaves_no_file_of_that_name(tmp_path):
    file = tmp_path / "killed.beton"
    code = f"""
import os, signal
from pathlib import Path
import numpy as np
from stages.shards import beton
with beton.Writer(Path({str(file)!r}), 100) as writer:
    for row in range(100):
        writer.add(np.zeros((224, 224, 3), np.uint8), row)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert not file.exists() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_rgb_image_is_refused(tmp_path, image):
    with (
        pytest.raises(ValueError, match=r"sample 0: .* not uint8 \[H, W, 3\]"),
        beton.Writer(tmp_path / "f", 1) as writer,
    ):
        writer.add(image, 0)


def test_an_image_larger_than_a_page_or_than_the_format_is_refused(tmp_path):
    for shape in ((1000, 1000, 3), (65536, 1, 3)):
        with (
            pytest.raises(InputError, match=r"sample 0: .* larger page_size"),
            beton.Writer(tmp_path / "f", 1, PAGE) as w,
        ):
            w.add(np.zeros(shape, np.uint8), 0)


@pytest.mark.parametrize("page_size", [0, 1 << 20, (1 << 21) + 4096, 1 << 32])
def test_page_sizes_that_ffcv_cannot_read_are_refused(tmp_path, page_size):
    with pytest.raises(InputError, match=f"page_size is {page_size}, expected a power of two"):
        beton.Writer(tmp_path / "f", 1, page_size)


def test_a_jpeg_of_another_size_or_kind_is_refused_when_added(photographs, tmp_path):
    data = jpeg.encode(photographs[0], 90)
    for bad, height, width in ((data, WIDTH, HEIGHT), (b"\x89PNG" + data[4:], HEIGHT, WIDTH), (b"", HEIGHT, WIDTH)):
        with (
            pytest.raises(InputError, match=r"sample 0: is .* expected a JPEG of"),
            beton.Writer(tmp_path / "f", 1) as w,
        ):
            w.add_jpeg(bad, height, width, 0)
    assert not list(tmp_path.iterdir())


class Lie:
    """A valid file's bytes, to be changed by name: header, fields, records and allocation table."""

    def __init__(self, file: Path) -> None:
        data = np.fromfile(file, np.uint8)
        self.header = data[: layout.HEADER.itemsize].view(layout.HEADER)
        self.fields = data[layout.HEADER.itemsize : layout.RECORDS].view(layout.FIELD)
        self.records = data[layout.RECORDS : layout.RECORDS + COUNT * 24].view(layout.IMAGE_FIRST)
        self.table = data[self.header["table"][0] :].view(layout.ALLOCATION)
        self.data = data


def _set(part: str, name: str, index: int, value: int | bytes):
    def lie(file: Lie) -> None:
        column = getattr(file, part)[name]
        assert column[index] != value
        column[index] = value

    return lie


def _move(row: int, by: int, records: bool = True, table: bool = True):
    """Move a sample's pointer, in its record, in the table, or in both."""

    def lie(file: Lie) -> None:
        file.records["pointer"][row] += by * records
        file.table["pointer"][row] += by * table

    return lie


def _point(row: int, at: int):
    def lie(file: Lie) -> None:
        file.records["pointer"][row] = file.table["pointer"][row] = at

    return lie


def _move_table(by: int):
    def lie(file: Lie) -> None:
        file.header["table"] += by

    return lie


def _exchange_fields(file: Lie) -> None:
    file.fields[:] = file.fields[::-1].copy()


LIES = {
    "older version": (_set("header", "version", 0, 1), "its version is 1, expected 2"),
    "interrupted patch": (_set("header", "version", 0, 0), "its version is 0 .0: a patch of it was cut short"),
    "one field": (_set("header", "fields", 0, 1), "holds 1 fields"),
    "three fields": (_set("header", "fields", 0, 3), "holds 3 fields"),
    "page size no power of two": (_set("header", "page_size", 0, PAGE + 4096), "its page size is"),
    "page size below 2 MiB": (_set("header", "page_size", 0, 1 << 20), "its page size is"),
    "page size 0": (_set("header", "page_size", 0, 0), "its page size is 0"),
    "larger page size": (_set("header", "page_size", 0, 1 << 22), "allocation table is at|are not in the pages"),
    "no samples": (_set("header", "samples", 0, 0), "holds 0 samples"),
    "fewer samples": (_set("header", "samples", 0, COUNT - 1), "allocation table is 1920 bytes, expected 1896"),
    "more samples": (_set("header", "samples", 0, COUNT + 1), "allocation table is 1920 bytes, expected 1944"),
    "2**63 samples": (_set("header", "samples", 0, -(2**63)), "holds -9223372036854775808 samples"),
    "2**62 samples": (_set("header", "samples", 0, 2**62), "its allocation table is at"),
    "table one entry on": (_move_table(24), "its allocation table is at"),
    "table one page back": (_move_table(-PAGE), "its allocation table is .* bytes, expected"),
    "table at 0": (_set("header", "table", 0, 0), "its allocation table is at 0"),
    "table beyond the end": (_set("header", "table", 0, 1 << 40), "its allocation table is at"),
    "table below 0": (_set("header", "table", 0, -PAGE), "its allocation table is at"),
    "two images": (_set("fields", "type", 1, 2), r"of types \[2, 2\]"),
    "a float label": (_set("fields", "type", 1, 0), r"of types \[2, 0\]"),
    "fields exchanged": (_exchange_fields, "sample 0: "),
    "two fields of one name": (_set("fields", "name", 1, b"image"), "fields are called"),
    "a field without a name": (_set("fields", "name", 1, b""), "fields are called"),
    "unknown mode": (_set("records", "mode", 4, 2), "sample 4: its mode is 2"),
    "raw said to be JPEG's": (_set("records", "mode", 3, 1), "sample 3: is raw, .* expected 61440"),
    "height 0": (_set("records", "height", 6, 0), "sample 6: is 0x160 pixels"),
    "width 0": (_set("records", "width", 6, 0), "sample 6: is 128x0 pixels"),
    "raw of another height": (_set("records", "height", 7, HEIGHT + 1), "sample 7: is raw"),
    "raw of another width": (_set("records", "width", 7, WIDTH - 1), "sample 7: is raw"),
    "raw size short": (_set("table", "size", 7, RAW_SIZE - 1), "sample 7: is raw, .* in 61439 bytes, expected 61440"),
    "raw size long": (_set("table", "size", 7, RAW_SIZE + 1), "sample 7: is raw"),
    "JPEG size 0": (_set("table", "size", 9, 0), "sample 9: is 0 bytes"),
    "JPEG size negative": (_set("table", "size", 9, -1), "sample 9: is -1 bytes"),
    "JPEG size a page and more": (_set("table", "size", 9, PAGE + 1), "sample 9: is 2097153 bytes in a page"),
    "JPEG size over the next": (_set("table", "size", 9, 30000), "sample 10: .* overlap"),
    "sample of no number": (_set("table", "sample", 5, COUNT), "entry 5 of the allocation table is of sample 80"),
    "sample below 0": (_set("table", "sample", 5, -1), "entry 5 of the allocation table is of sample -1"),
    "sample twice": (_set("table", "sample", 5, 6), "sample 5: has 0 entries"),
    "record elsewhere": (_move(5, 1, table=False), "sample 5: its record points to"),
    "table elsewhere": (_move(5, 1, records=False), "sample 5: its record points to"),
    "both over the next": (_move(7, 1), "sample 8: .* overlap"),
    "both over the last": (_move(7, -1), "sample 7: .* overlap"),
    "the same place": (_point(7, layout.pages_start(COUNT, PAGE)), "sample .*overlap"),
    "in the tables": (_point(1, 0), "sample 1: its 61440 bytes at 0 are not in the pages"),
    "below 0": (_point(1, -1), "sample 1: its 61440 bytes at -1 are not in the pages"),
    "2**63 - 1": (_point(1, 2**63 - 1), "sample 1: .* are not in the pages"),
    "over a page's end": (_point(1, layout.pages_start(COUNT, PAGE) + PAGE - 1000), "sample 1: .* cross a page"),
}


@pytest.mark.parametrize("name", LIES)
def test_every_lie_of_a_file_is_refused(mixed_file, tmp_path, name):
    change, message = LIES[name]
    lie = Lie(mixed_file)
    change(lie)
    file = tmp_path / "lie.beton"
    lie.data.tofile(file)
    assert file.read_bytes() != mixed_file.read_bytes()
    with pytest.raises(InputError, match=rf"lie\.beton: .*{message}"):
        beton.read(file)


@pytest.mark.parametrize("size", [0, 23, 24, layout.RECORDS, layout.RECORDS + 100, PAGE, -PAGE, -24, -23, -1])
def test_a_file_that_is_cut_is_refused(mixed_file, tmp_path, size):
    file = tmp_path / "cut.beton"
    file.write_bytes(mixed_file.read_bytes()[:size])
    with pytest.raises(InputError, match=r"cut\.beton: .*(bytes|version)"):
        beton.read(file)


@pytest.mark.parametrize("size", [1, 24, PAGE])
def test_a_file_that_goes_on_is_refused(mixed_file, tmp_path, size):
    file = tmp_path / "longer.beton"
    file.write_bytes(mixed_file.read_bytes() + bytes(size))
    with pytest.raises(InputError, match=r"longer\.beton: its allocation table is \d+ bytes, expected 1920"):
        beton.read(file)


def test_no_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.beton", tmp_path):
        with pytest.raises(InputError, match="no such file; expected an FFCV file"):
            beton.read(path)


def test_a_jpeg_that_lies_of_its_size_or_is_none_is_refused(mixed_file, tmp_path):
    base = beton.read(mixed_file)
    start = int(base.pointers[6])
    for change in ("size", "start"):
        data = np.fromfile(mixed_file, np.uint8)
        frame = start + data[start : start + 2000].tobytes().index(b"\xff\xc0")
        data[frame + 6 if change == "size" else start] ^= 1
        file = tmp_path / "lie.beton"
        data.tofile(file)
        lie = beton.read(file)
        lie.check_jpegs(np.array([0, 3, 7]))
        with pytest.raises(InputError, match=r"lie\.beton: sample 6: is .* the file's table says a JPEG of 128x160"):
            lie.check_jpegs(np.arange(COUNT))
