"""The CSV by which Vertex AI finds the images."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import InputError
from stages.interchange import automl


def quiet(images: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("prefix", ["", "gs://bucket/a folder", "gs://bucket/"])
def test_every_image_has_one_row_that_points_to_it(make: Any, tmp_path: Path, prefix: str) -> None:
    made = make(("0 zero", "cat, wild", "newt"), prefix=prefix)
    automl.refuse(made)
    automl.write(made, tmp_path, quiet)
    with (tmp_path / "import.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == len(made) == len({path for _, path, _ in rows})
    start = prefix.rstrip("/") + "/" if prefix else ""
    for use, path, label in rows:
        split = {"training": "train", "test": "test"}[use]
        assert path.startswith(f"{start}{split}/")
        file = tmp_path / path.removeprefix(start)
        assert file.is_file()
        assert made.splits[split].labels[int(file.stem)] == ["class_0_zero", "cat__wild", "newt"].index(label)


@given(st.lists(st.text(max_size=6), min_size=1, max_size=20, unique=True))
def test_labels_are_what_is_allowed_and_differ(classes: list[str]) -> None:
    found = automl.labels(classes)
    assert len(set(found)) == len(classes)
    assert all(re.fullmatch("[A-Za-z][A-Za-z0-9_]*", label) for label in found)


def test_names_that_are_allowed_stay() -> None:
    assert automl.labels(["cat", "Dog_2"]) == ["cat", "Dog_2"]
    assert automl.labels(["a b", "a_b", "c"]) == ["a_b_0", "a_b_1", "c_2"]


@pytest.mark.parametrize("prefix", ["bucket/folder", "s3://bucket", "gs:/bucket", "gs://"])
def test_another_prefix_is_refused(make: Any, prefix: str) -> None:
    with pytest.raises(InputError, match="expected gs://BUCKET/FOLDER"):
        automl.refuse(make(prefix=prefix))
