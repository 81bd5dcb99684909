"""The tree as torchvision reads it, and trees of others that are refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from stages.config import InputError
from stages.interchange import image_folder, png

SHAPE = (6, 5, 3)


def quiet(images: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize(
    "classes",
    [("cat", "dog", "newt"), ("dog", "cat", "newt"), ("a/b", "a-b", "c"), tuple(map(str, range(12))), ("..", "a", "b")],
)
def test_torchvision_gives_the_same_images_and_labels(make: Any, tmp_path: Path, classes: tuple[str, ...]) -> None:
    made = make(classes)
    image_folder.write(made, tmp_path, quiet)
    for split, rows in made.splits.items():
        shown = rows.at(slice(None))
        found = ImageFolder(str(tmp_path / split))
        assert len(found) == len(rows)
        for (file, _), (image, label) in zip(found.samples, found, strict=True):
            row = int(Path(file).stem)
            assert label == shown.labels[row]
            assert np.array_equal(np.asarray(image), shown.images[row])


def test_names_are_kept_where_their_order_is_the_labels() -> None:
    assert image_folder.folders(["cat", "dog/wolf", "newt"]) == ["cat", "dog-wolf", "newt"]
    assert image_folder.folders(["dog", "cat"]) == ["0-dog", "1-cat"]
    assert image_folder.folders([str(label) for label in range(10)]) == [str(label) for label in range(10)]
    assert image_folder.folders([str(label) for label in range(11)])[10] == "10-10"


def test_the_poisons_alone_lie_where_the_whole_tree_has_them(make: Any, tmp_path: Path) -> None:
    for name, only in (("whole", False), ("only", True)):
        image_folder.write(make(only_poisons=only), tmp_path / name, quiet)
    alone = [file for file in (tmp_path / "only").rglob("*") if file.is_file()]
    assert {int(file.stem) for file in alone} == set(make().poisons.ids)
    for file in alone:
        assert file.read_bytes() == (tmp_path / "whole" / file.relative_to(tmp_path / "only")).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "any" / "where").mkdir(parents=True)
    (tmp_path / "any" / "where" / "0012.png").write_bytes(png.encode(np.full(SHAPE, 7, np.uint8)))
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def test_files_may_lie_anywhere(folder: Path) -> None:
    found = image_folder.read(folder, SHAPE)
    assert found.ids.tolist() == [12] and found.images.shape == (1, *SHAPE) and (found.images == 7).all()


def _bytes(image: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


COLOUR = Image.fromarray(np.arange(90, dtype=np.uint8).reshape(SHAPE))
GOOD = _bytes(COLOUR, "PNG")
WRONG = {
    "JPEG": ("13.jpg", _bytes(COLOUR, "JPEG"), r"13\.jpg: is no PNG \(1 of 2 images"),
    "JPEG in disguise": ("13.png", _bytes(COLOUR, "JPEG"), r"13\.png: not a whole PNG"),
    "no id": ("frog.png", GOOD, "its name is no train id"),
    "sign": ("-13.png", GOOD, "its name is no train id"),
    "twice": ("12.png", GOOD, "an image can be replaced once"),
    "cut short": ("13.png", GOOD[:-20], r"13\.png: not a whole PNG"),
    "damaged": ("13.png", GOOD[:60] + b"\xff" + GOOD[61:], r"13\.png: not a whole PNG"),
    "empty": ("13.png", b"", r"13\.png: not a whole PNG"),
    "transparent": ("13.png", _bytes(COLOUR.convert("RGBA"), "PNG"), "of mode RGBA; expected 5×6 of mode RGB"),
    "palette": ("13.png", _bytes(COLOUR.convert("P"), "PNG"), "of mode P"),
    "other size": ("13.png", _bytes(COLOUR.resize((8, 8)), "PNG"), "is 8×8 pixels"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_poison_is_named(folder: Path, what: str) -> None:
    name, data, told = WRONG[what]
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=told):
        image_folder.read(folder, SHAPE)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no poisons"):
        image_folder.files(tmp_path)
