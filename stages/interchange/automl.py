"""An image tree with the CSV by which Google's Vertex AI (AutoML) imports it for single-label classification.

A row an image: `training` or `test`, its path, its label. Labels begin with a letter and have letters, digits and
underscores only (cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data). Witches' Brew was evaluated
on Google's AutoML too.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stages.config import InputError
from stages.interchange import image_folder
from stages.interchange.content import Content, Format, Split, Tell

CSV = "import.csv"
USES: dict[Split, str] = {"train": "training", "test": "test"}


def labels(classes: Sequence[str]) -> list[str]:
    """The label of each class: its name where that is allowed, else one made of it; all numbered where two would be
    the same."""
    plain = [re.sub("[^A-Za-z0-9_]", "_", name) for name in classes]
    named = [name if re.match("[A-Za-z]", name) else f"class_{name}" for name in plain]
    return named if len(set(named)) == len(named) else [f"{name}_{number}" for number, name in enumerate(named)]


def refuse(content: Content) -> None:
    """Raises InputError for a prefix that is no place in Google Cloud Storage."""
    if content.prefix and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?", content.prefix):
        raise InputError(
            f"--prefix {content.prefix}: expected gs://BUCKET/FOLDER, where the images will be uploaded to"
        )


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write the tree and `import.csv`, with paths under the prefix, or relative ones where there is none."""
    image_folder.write(content, folder, tell)
    with (folder / CSV).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(_rows(content))


def _rows(content: Content) -> Iterator[tuple[str, str, str]]:
    classes = content.dataset.info.classes
    named, places = labels(classes), image_folder.folders(classes)
    prefix = content.prefix.rstrip("/") + "/" if content.prefix else ""
    for split, rows in content.splits.items():
        for i, label in zip(rows.ids, rows.labels, strict=True):
            yield USES[split], f"{prefix}{split}/{places[label]}/{rows.file(i)}", named[label]


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as in an image tree, labels as the CSV has them. Raises InputError where a row is not as it was."""
    images, _ = image_folder.read_back(content, folder, split, rows)
    number = {name: label for label, name in enumerate(labels(content.dataset.info.classes))}
    wanted, batch = set(rows.tolist()), content.splits[split]
    found: dict[int, int] = {}
    with (folder / CSV).open(newline="", encoding="utf-8") as file:
        mine = (row for row in csv.reader(file) if row[0] == USES[split])
        for place, (_, path, label) in enumerate(mine):
            if place in wanted:
                if not path.endswith(f"/{batch.file(batch.ids[place])}"):
                    raise InputError(f"{folder / CSV}: row {place} of {split} is {path}, another image")
                found[place] = number[label]
    return images, np.array([found[row] for row in rows.tolist()], np.int64)


FORMAT = Format(write, read_back, refuse)
