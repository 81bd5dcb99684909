"""A tree of PNGs, {train,test}/CLASS/<id>.png in the order of ids, as torchvision's ImageFolder and most tools read it.

PNG and not JPEG: a poison that was compressed with loss is another poison. On the way back any tree will do whose files
are called by the train ids that they replace.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from stages.config import InputError
from stages.data.image_tree import EXTENSIONS
from stages.interchange import png
from stages.interchange.content import Batch, Content, Format, Outside, Rows, Split, Tell, Way


def folders(classes: Sequence[str]) -> list[str]:
    """The folder of each class: its name, with `/` and control characters written `-`.

    ImageFolder numbers classes by the order of the folders' names. Where that is not the order of the labels, the names
    begin with their label.
    """
    names = [re.sub(r"[/\x00-\x1f\x7f]", "-", name) for name in classes]
    if names == sorted(set(names)) and not {"", ".", ".."} & set(names):
        return names
    digits = len(str(len(names) - 1))
    return [f"{label:0{digits}d}-{name}" for label, name in enumerate(names)]


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write the tree, several files at once."""
    names = folders(content.dataset.info.classes)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for split, rows in content.splits.items():
            places = [folder / split / name for name in names]
            for label in np.unique(rows.labels):
                places[label].mkdir(parents=True)
            for batch in rows.batches():
                for _ in pool.map(partial(_write_one, places, rows, batch), range(len(batch.ids))):
                    tell(1)


def _write_one(places: Sequence[Path], rows: Rows, batch: Batch, row: int) -> None:
    (places[batch.labels[row]] / rows.file(batch.ids[row])).write_bytes(png.encode(batch.images[row]))


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as Pillow reads them, and labels as ImageFolder gives them (of poisons alone: by the folder's name)."""
    from torchvision.datasets.folder import find_classes

    info, batch = content.dataset.info, content.splits[split]
    names = folders(info.classes)
    _, label_of = find_classes(str(folder / split))
    if content.only_poisons:
        label_of = {name: label for label, name in enumerate(names) if name in label_of}
    of_class = [names[label] for label in batch.labels[rows]]
    files = [folder / split / name / batch.file(i) for name, i in zip(of_class, batch.ids[rows], strict=True)]
    images = [png.read(file, info.shape) for file in files]
    return np.stack(images), np.array([label_of[name] for name in of_class], np.int64)


def files(folder: Path) -> list[Path]:
    """All PNGs below a folder. Raises InputError where there is none, or an image of another format."""
    found = sorted(Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names)
    images = [file for file in found if file.suffix.lower() in EXTENSIONS]
    others = [file for file in images if file.suffix.lower() != ".png"]
    if others:
        raise InputError(
            f"{others[0]}: is no PNG ({len(others)} of {len(images)} images are none); other formats may lose what the "
            "poisons are made of: save them as PNG, from the arrays they were made as"
        )
    if not images:
        raise InputError(f"{folder}: holds no poisons; expected <train id>.png, in any folders")
    return images


def read(folder: Path, shape: tuple[int, int, int]) -> Outside:
    """The PNGs below a folder, called by the ids they replace. Raises InputError for one that is called otherwise."""
    found: dict[int, Path] = {}
    for file in files(folder):
        if not (file.stem.isascii() and file.stem.isdigit() and len(file.stem) < 19):
            raise InputError(f"{file}: its name is no train id; expected such as 1234.png")
        if (other := found.setdefault(int(file.stem), file)) != file:
            raise InputError(f"{file}: there is {other} too, and an image can be replaced once; keep the poisons alone")
    images = [png.read(file, shape) for file in found.values()]
    return Outside(np.array(list(found), np.int64), np.stack(images))


FORMAT = Format(write, read_back, back=Way(files, read))
