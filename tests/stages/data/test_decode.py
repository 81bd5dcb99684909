"""Pixels as torchvision gets them from real photographs, and every file that is no whole image refused by name."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import InputError
from stages.data import imagenet
from stages.data.decode import Form, decode, decode_one
from stages.data.image_tree import Tree, list_tree

FORM = Form((224, 224, 3), 256)


@pytest.fixture(scope="session")
def photos(imagenet_sample_folder: Path) -> list[Path]:
    return sorted(imagenet_sample_folder.glob("*/*.JPEG"))


@pytest.fixture(scope="session")
def photo(photos: list[Path]) -> Image.Image:
    with Image.open(photos[1]) as image:
        return image.convert("RGB")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def torchvisions(data: bytes) -> np.ndarray:
    """Resize(256) and CenterCrop(224), of what torchvision's loader makes of a file."""
    from torchvision.transforms import v2

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(image.convert("RGB")))


def test_real_photographs_become_torchvisions_pixels(photos: list[Path]) -> None:
    modes = set()
    for file in photos:
        with Image.open(file) as image:
            modes.add(image.mode)
        assert np.array_equal(decode_one(file.read_bytes(), file.name, FORM), torchvisions(file.read_bytes()))
    assert modes == {"RGB", "L"}


@pytest.mark.parametrize(
    ("width", "height"), [(500, 375), (375, 500), (73, 64), (40, 31), (301, 300), (64, 64), (900, 2)]
)
def test_resize_and_crop_are_torchvisions_whatever_the_size(photo: Image.Image, width: int, height: int) -> None:
    from torchvision.transforms import v2

    image = photo.resize((width, height), Image.Resampling.BICUBIC)
    reference = v2.Compose([v2.Resize(73, antialias=True), v2.CenterCrop(64)])(image)
    assert np.array_equal(decode_one(encoded(image, "PNG"), "image", Form((64, 64, 3), 73)), np.asarray(reference))


def rotated_by_exif(photo: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo, "JPEG", exif=exif)


@pytest.mark.parametrize(
    "content",
    [
        lambda photo: encoded(photo.convert("L"), "JPEG"),
        lambda photo: encoded(photo.convert("CMYK"), "JPEG"),
        lambda photo: encoded(photo, "PNG"),  # as ImageNet's n02105855_2933.JPEG
        lambda photo: encoded(photo.quantize(64), "PNG"),
        lambda photo: encoded(photo, "WEBP"),
        lambda photo: encoded(photo, "JPEG", progressive=True),
        rotated_by_exif,
    ],
    ids=["grey", "cmyk", "png", "palette", "webp", "progressive", "exif"],
)
def test_what_torchvision_reads_is_read_by_content(photo: Image.Image, content: Callable[[Image.Image], bytes]) -> None:
    data = content(photo)
    assert np.array_equal(decode_one(data, "n02105855_2933.JPEG", FORM), torchvisions(data))


def test_every_kind_of_colour_becomes_rgb_or_grey(photo: Image.Image) -> None:
    small = photo.resize((32, 32))
    pixels, grey = np.asarray(small), np.asarray(small.convert("L"))
    see_through, palette = small.copy(), small.quantize(256)
    see_through.putalpha(100)
    for content, expected in (
        (encoded(small, "PNG"), pixels),
        (encoded(see_through, "PNG"), pixels),
        (encoded(small.convert("L"), "PNG"), np.repeat(grey[..., np.newaxis], 3, axis=2)),
        (encoded(palette, "PNG", transparency=3), np.asarray(palette.convert("RGB"))),
    ):
        assert np.array_equal(decode_one(content, "image", Form((32, 32, 3), None)), expected)
    assert np.array_equal(decode_one(encoded(small, "PNG"), "image", Form((32, 32, 1), None))[..., 0], grey)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def animated(photo: Image.Image, kind: str) -> bytes:
    return encoded(photo, kind, save_all=True, append_images=[photo.rotate(90)])


BAD: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "truncated.JPEG": (lambda photo: encoded(photo, "JPEG")[:9_000], "not a whole image"),
    "nearly-whole.JPEG": (lambda photo: encoded(photo, "JPEG")[:-400], "not a whole image"),
    "headless.JPEG": (lambda photo: b"\0" * 100 + encoded(photo, "JPEG")[100:], "begins with b'.*, as no JPEG, "),
    "text.JPEG": (lambda photo: b"this is no image\n" * 50, "begins with b'this is no i', as no JPEG, PNG,"),
    "empty.JPEG": (lambda photo: b"", "is empty"),
    "flipped.JPEG": (lambda photo: flipped(encoded(photo, "PNG")), "not a whole image"),
    "animated.webp": (lambda photo: animated(photo, "WEBP"), "is animated or has several pages"),
    "animated-png.JPEG": (lambda photo: animated(photo, "PNG"), "is animated or has several pages"),
    "animated-gif.JPEG": (lambda photo: animated(photo, "GIF"), "begins with b'GIF8"),
    "pages.tif": (lambda photo: animated(photo, "TIFF"), "is animated or has several pages"),
    "deep.png": (lambda _: encoded(Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG"), "8 bits a channel"),
    "dot.JPEG": (lambda photo: encoded(photo.resize((1, 1)), "JPEG"), "is 1×1 pixels; expected at least 2×2"),
    "panorama.JPEG": (lambda photo: encoded(photo.resize((5000, 1)), "JPEG"), "is 5000×1 pixels; expected at least"),
    "strip.JPEG": (lambda photo: encoded(photo.resize((65_000, 2)), "JPEG"), "too long and narrow: .*8320000×256"),
}  # fmt: skip


@pytest.fixture
def tree(photos: list[Path], tmp_path: Path) -> Path:
    for number, file in enumerate(photos[:20]):
        folder = tmp_path / "tree" / ("train" if number % 3 else "val") / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
    return tmp_path / "tree"


def decoded(tree: Tree, cpus: int = 2) -> tuple[np.ndarray, list[str], list[int]]:
    """Images, faults and progress of a tree's train split."""
    seen: list[int] = []
    out = np.zeros((len(tree.train_files), *FORM.shape), np.uint8)
    faults = decode(tree, tree.train_files, FORM, cpus, out, seen.append)
    return out, faults, seen


def test_all_bad_files_are_named_at_once_and_the_others_decoded(photo: Image.Image, tree: Path) -> None:
    good = list_tree(tree)
    assert good is not None
    for name, (content, _) in BAD.items():
        (tree / "train" / "0" / name).write_bytes(content(photo))
    listed = list_tree(tree)
    assert listed is not None
    (tree / "train" / "0" / "text.JPEG").write_bytes(b"shorter than when it was listed")
    (tree / "train" / "0" / "empty.JPEG").unlink()
    images, faults, _ = decoded(listed)
    expected = {name: reason for name, (_, reason) in BAD.items()}
    expected |= {"text.JPEG": "was 850 bytes when the tree was listed, now 31", "empty.JPEG": "cannot be read"}
    assert [fault.partition(": ")[0] for fault in faults] == sorted(
        str(tree / "train" / "0" / name) for name in expected
    )
    whole = [row for row, name in enumerate(listed.train_files) if Path(name).name not in BAD]
    assert np.array_equal(images[whole], decoded(good)[0])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_for_what_it_is(photo: Image.Image, name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(InputError, match=f"^{name}: .*{message}"):
        decode_one(content(photo), name, FORM)


def test_an_image_of_another_size_is_refused_where_nothing_is_resized(photo: Image.Image) -> None:
    with pytest.raises(InputError, match=r"a/b\.JPEG: is 40×32 pixels; expected 32×32"):
        decode_one(encoded(photo.resize((40, 32)), "PNG"), "a/b.JPEG", Form((32, 32, 3), None))


def test_the_result_depends_neither_on_threads_nor_on_the_array(tree: Path, tmp_path: Path) -> None:
    listed = list_tree(tree)
    assert listed is not None
    images, faults, seen = decoded(listed, 1)
    assert (faults, seen[-1]) == ([], len(images))
    mapped = np.memmap(tmp_path / "images", np.uint8, "w+", shape=images.shape)
    assert decode(listed, listed.train_files, FORM, 4, mapped, lambda done: None) == []
    assert np.array_equal(mapped, images)


def test_progress_is_told_in_bounded_steps_and_bad_tar_members_by_tar_and_name(
    photos: list[Path], tar_of: Callable[..., bytes], tmp_path: Path
) -> None:
    from stages.data.image_tree import Place, assembled
    from stages.data.tars import members

    small = encoded(Image.open(photos[0]).resize((8, 8)), "JPEG")
    file = tmp_path / imagenet.TRAIN_TAR
    file.write_bytes(tar_of([(f"{number:04d}.JPEG", b"text" if number == 77 else small) for number in range(600)]))
    listing = {f"train/a/{name}": Place(file.name, size, offset) for name, offset, size in members(file)}
    tree = assembled(tmp_path, ["a"], ("a",), {"train": [listing], "val": [listing]})
    seen: list[int] = []
    out = np.zeros((600, 8, 8, 3), np.uint8)
    faults = decode(tree, tree.train_files, Form((8, 8, 3), None), 2, out, seen.append)
    assert seen == [256, 512, 600]
    assert faults == [
        f"{file}: train/a/0077.JPEG: begins with b'text', as no JPEG, PNG, PPM, BMP, TIFF or WEBP image does"
    ]
    assert (out[0] == out[599]).all()
    assert out[77].max() == 0 < out[76].max()
