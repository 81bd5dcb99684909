"""A folder is whole or it is not there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.config import InputError
from stages.interchange import FORMATS
from stages.interchange.delivery import SAMPLE, counts, deliver, sampled

ARROW = FORMATS["arrow"]


def quiet(images: int) -> None:
    """Nobody watches."""


def test_about_says_what_lies_there(make: Any, tmp_path: Path) -> None:
    deliver(FORMATS["automl"], make(), tmp_path / "a" / "b", {"run": "größe"}, quiet, quiet)
    about = json.loads((tmp_path / "a" / "b" / "about.json").read_text(encoding="utf-8"))
    assert about["run"] == "größe"
    assert {name: found["files"] for name, found in about["files"].items()} == {"import.csv": 1, "test": 6, "train": 21}
    files = [file for file in (tmp_path / "a" / "b").rglob("*") if file.is_file() and file.name != "about.json"]
    assert sum(found["bytes"] for found in about["files"].values()) == sum(file.stat().st_size for file in files)


def test_an_empty_folder_is_used_and_a_full_one_is_not(make: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    deliver(ARROW, make(), tmp_path / "empty", {}, quiet, quiet)
    before = (tmp_path / "empty" / "train.arrow").read_bytes()
    with pytest.raises(InputError, match="is not empty; choose another folder"):
        deliver(ARROW, make(seed=1), tmp_path / "empty", {}, quiet, quiet)
    assert (tmp_path / "empty" / "train.arrow").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is there, and is no folder"):
        deliver(ARROW, make(), tmp_path / "file", {}, quiet, quiet)
    with pytest.raises(InputError, match="file/below: cannot be written"):
        deliver(ARROW, make(), tmp_path / "file" / "below", {}, quiet, quiet)
    assert {entry.name for entry in tmp_path.iterdir()} == {"empty", "file"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("?")])
def test_nothing_is_left_of_what_was_not_finished(make: Any, tmp_path: Path, error: BaseException) -> None:
    def interrupted(images: int) -> None:
        raise error

    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        deliver(FORMATS["image-folder"], make(), tmp_path / "out", {}, interrupted, quiet)
    assert not list(tmp_path.iterdir())


def test_what_the_format_cannot_hold_is_told_before_anything_is_written(make: Any, tmp_path: Path) -> None:
    def never(*_: Any) -> None:
        pytest.fail("it must not be written")

    with pytest.raises(InputError, match="class 'a' is there twice"):
        deliver(replace(FORMATS["parquet"], write=never), make(("a", "a")), tmp_path / "out", {}, quiet, quiet)


def test_every_poison_and_a_fixed_sample_are_read_back(make: Any) -> None:
    poison = np.zeros(1000, bool)
    poison[::7] = True
    rows = sampled(poison)
    assert set(np.flatnonzero(poison)) <= set(rows) and len(set(rows)) == poison.sum() + SAMPLE
    assert np.array_equal(rows, sampled(poison)) and np.array_equal(rows, np.sort(rows))
    assert sampled(np.array([True, False])).tolist() == [0, 1]
    assert counts(make(per_class=100)) == (306, 4 + SAMPLE + 6)
