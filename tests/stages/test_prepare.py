"""From real images to base shards: digits, a JPEG tree, and everything that may be wrong with a file."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import InputError
from stages.data.canonical import CANONICAL
from stages.data.datasets import Cifar10, DatasetConfig, Digits, ImageFolder, resolve
from stages.data.image_tree import Form, decode_one
from stages.data.sources import channel_statistics
from stages.prepare import Params, run
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime


def prepare(config: DatasetConfig, folder: Path, cpus: int = 2) -> tuple[dict[str, Any], Path, list[tuple[int, int]]]:
    """Metrics, output folder and progress of the stage."""
    seen: list[tuple[int, int]] = []
    out = folder / "out"
    out.mkdir()
    context = Context(
        0, Runtime(cpus=cpus), Checkpoint(folder / "checkpoint"), lambda done, total, _: seen.append((done, total))
    )
    return run(Params(dataset=config), {}, out, context), out, seen


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def photo(cifar10_folder: Path) -> Image.Image:
    with Image.open(cifar10_folder / "test" / "frog" / "0000.jpg") as image:
        return image.convert("RGB")


def test_digits_become_shards_that_every_stage_can_load(tmp_path: Path) -> None:
    metrics, out, seen = prepare(resolve(Digits()), tmp_path)
    dataset = base_shards.load(out)
    assert dataset.info.shape == (8, 8, 1)
    assert (len(dataset.train), len(dataset.test)) == (1347, 450) == (metrics["train_images"], metrics["test_images"])
    assert dataset.info.mean[0] == pytest.approx(dataset.train.images.mean() / 255, abs=1e-12)
    assert dataset.info.std[0] == pytest.approx(dataset.train.images.std() / 255, abs=1e-12)
    assert seen[-1] == (1797, 1797)


def test_a_jpeg_tree_becomes_the_pixels_that_torchvision_reads(cifar10_folder: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder as Torchvision

    metrics, out, seen = prepare(resolve(Cifar10(root=cifar10_folder, per_class=5, test_per_class=2)), tmp_path)
    dataset = base_shards.load(out)
    assert (metrics["train_images"], metrics["test_images"], metrics["classes"]) == (50, 20, 10)
    reference = Torchvision(str(cifar10_folder / "train"))
    assert dataset.info.classes == tuple(reference.classes)
    for label in (0, 3, 9):
        first = reference.targets.index(label)
        for offset in range(5):
            image, target = reference[first + offset]
            row = label * 5 + offset
            assert dataset.train.labels[row] == target
            assert np.array_equal(dataset.train.images[row], np.asarray(image))
    assert seen[-1] == (70, 70)
    assert sorted(file.name for file in out.iterdir()) == [
        "dataset.json",
        "test-00000-of-00001.arrow",
        "train-00000-of-00001.arrow",
    ]


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (73, 64), (40, 31), (301, 300)])
def test_resize_and_crop_are_torchvisions(photo: Image.Image, tmp_path: Path, width: int, height: int) -> None:
    from torchvision.transforms import v2

    image = photo.resize((width, height), Image.Resampling.BICUBIC)
    (tmp_path / "image.png").write_bytes(encoded(image, "PNG"))
    reference = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])(image)
    assert np.array_equal(decode_one(tmp_path / "image.png", Form((64, 64, 3), 73)), np.asarray(reference))


def test_every_kind_of_colour_becomes_rgb(photo: Image.Image, tmp_path: Path) -> None:
    form = Form((32, 32, 3), None)

    def read(content: bytes) -> np.ndarray:
        (tmp_path / "image.jpg").write_bytes(content)  # by content, not by extension: ImageNet has a PNG called JPEG
        return decode_one(tmp_path / "image.jpg", form)

    pixels = np.asarray(photo)
    assert np.array_equal(read(encoded(photo, "PNG")), pixels)
    see_through = photo.copy()
    see_through.putalpha(100)
    assert np.array_equal(read(encoded(see_through, "PNG")), pixels)
    grey = np.asarray(photo.convert("L"))
    assert np.array_equal(read(encoded(photo.convert("L"), "PNG")), np.repeat(grey[..., np.newaxis], 3, axis=2))
    palette = photo.quantize(256)
    assert np.array_equal(read(encoded(palette, "PNG", transparency=3)), np.asarray(palette.convert("RGB")))
    error = np.abs(read(encoded(photo.convert("CMYK"), "JPEG", quality=100)).astype(int) - pixels)
    assert error.mean() < 5


def test_all_bad_files_are_named_in_one_error_and_nothing_is_written(
    cifar10_folder: Path, photo: Image.Image, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                shutil.copy(cifar10_folder / split / name / f"{number:04d}.jpg", root / split / name)
    jpeg, png = encoded(photo, "JPEG"), encoded(photo, "PNG")
    middle = len(png) // 2
    bad = {
        "train/cat/truncated.jpg": jpeg[: len(jpeg) // 2],
        "train/cat/headless.jpg": b"\0" * 100 + jpeg[100:],
        "train/cat/text.jpg": b"this is no image\n" * 50,
        "train/dog/empty.jpeg": b"",
        "train/dog/flipped.png": png[:middle] + bytes([png[middle] ^ 1]) + png[middle + 1 :],
        "train/dog/animated.webp": encoded(photo, "WEBP", save_all=True, append_images=[photo.rotate(90)]),
        "train/dog/animated.png": encoded(photo, "PNG", save_all=True, append_images=[photo.rotate(90)]),
        "test/cat/really-a-gif.jpg": encoded(photo, "GIF"),
        "test/cat/deep.png": encoded(Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG"),
        "test/dog/thin.png": encoded(photo.resize((40, 1)), "PNG"),
    }
    for name, content in bad.items():
        (root / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        prepare(resolve(ImageFolder(name="pets", size=32, root=root)), tmp_path)
    message = str(raised.value)
    assert f"{len(bad)} of {12 + len(bad)} images" in message
    assert [name for name in bad if str(root / name) not in message] == []
    assert "0000.jpg" not in message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_long_list_of_bad_files_is_cut_with_a_count(tmp_path: Path) -> None:
    for split, count in (("train", 24), ("val", 1)):
        (tmp_path / "tree" / split / "a").mkdir(parents=True)
        for number in range(count):
            (tmp_path / "tree" / split / "a" / f"{number}.jpg").touch()
    with pytest.raises(InputError, match="and 5 more"):
        prepare(resolve(ImageFolder(name="a", size=32, root=tmp_path / "tree")), tmp_path)


def test_a_published_dataset_of_another_image_size_is_refused(photo: Image.Image, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in CANONICAL["cifar10"].classes:
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            photo.resize((40, 32)).save(tmp_path / "tree" / split / name / "0.png")
    with pytest.raises(InputError, match=r"is 40×32 pixels; expected 32×32"):
        prepare(resolve(Cifar10(root=tmp_path / "tree")), tmp_path)


def test_a_tree_is_never_stored_as_the_published_dataset(cifar10_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="planned without its fingerprint"):
        prepare(Cifar10(root=cifar10_folder, per_class=1), tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_result_does_not_depend_on_the_number_of_threads(cifar10_folder: Path, tmp_path: Path) -> None:
    config = resolve(Cifar10(root=cifar10_folder, per_class=40, test_per_class=1))
    contents = []
    for cpus in (1, 4):
        (tmp_path / str(cpus)).mkdir()
        prepare(config, tmp_path / str(cpus), cpus)
    assert contents[0] == contents[1]


def test_statistics_are_numpys_and_a_constant_channel_gets_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 7, 3), np.uint8)
    images[..., 1] = 17
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean(axis=(0, 1, 2)), abs=1e-12)
    assert std == pytest.approx([scaled[..., 0].std(), 1.0, scaled[..., 2].std()], abs=1e-12)
