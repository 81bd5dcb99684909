"""Poisons of others: which they are is known early, and only those that fit their case are taken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.brew.attacks import External
from stages.config import InputError
from stages.interchange import FORMATS, Content
from stages.interchange.external import fingerprint, read, resolve
from stages.shards.poisons import PoisonSet

READ = [name for name, form in FORMATS.items() if form.back is not None]


def written(name: str, made: Content, folder: Path) -> Path:
    folder.mkdir(parents=True)
    FORMATS[name].write(replace(made, only_poisons=True), folder, lambda images: None)
    return folder


def attack(name: str, *folders: Any) -> External:
    return External.model_validate({"format": name, "folders": folders, "eps": 8})


@pytest.mark.parametrize("name", READ)
def test_a_folder_is_known_by_its_files_alone(make: Any, tmp_path: Path, name: str) -> None:
    one, two, other = (written(name, make(seed=seed), tmp_path / f"{n}") for n, seed in enumerate((0, 0, 1)))
    (two / "about.json").write_text("{}")
    found = resolve(attack(name, str(one), str(two), str(other)))
    a, b, c = (folder.sha256 for folder in found.folders)
    assert a == b != c
    assert resolve(found) == found
    with pytest.raises(InputError, match=rf"{other}: the sha256 of its poisons is {c}, expected {a}"):
        resolve(attack(name, {"path": str(other), "sha256": a}))


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: there is no such folder; attack\.folders names one a case"):
        resolve(attack("arrow", str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"attack\.folders\.1\.path is missing"):
        resolve(attack("image-folder", str(_one_png(tmp_path)), {"sha256": "0" * 64}))


def _one_png(folder: Path) -> Path:
    (folder / "0.png").write_bytes(b"only hashed")
    return folder


def test_a_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _one_png(tmp_path)
    monkeypatch.chdir(tmp_path)
    (folder,) = resolve(attack("image-folder", ".")).folders
    assert folder.path == tmp_path


@pytest.mark.parametrize("name", READ)
def test_poisons_come_back_in_the_order_of_their_ids(make: Any, tmp_path: Path, name: str) -> None:
    made = make()
    back_to_front = PoisonSet(
        made.poisons.ids[::-1], made.poisons.images[::-1], made.poisons.labels[::-1], made.poisons.info
    )
    folder = written(name, replace(made, poisons=back_to_front), tmp_path / "out")
    found = read(name, folder, fingerprint(name, folder), made.dataset, made.case)
    assert np.array_equal(found.ids, made.poisons.ids)
    assert found.sha256() == made.poisons.sha256()


Change = Callable[[Content], Content]


def _case(**fields: Any) -> Change:
    return lambda made: replace(made, case=made.case.model_copy(update=fields))


WRONG: dict[str, tuple[Change, str]] = {
    "another class": (_case(poison_class=1), "replaces an image of class 'newt', and .* is poisoned in class 'dog'"),
    "over the budget": (_case(poison_ids=(0, 1)), "holds 4 poisons, and the budget of .* is 2 of 21; .* 0.190476"),
    "another dataset": (
        lambda made: replace(made, dataset=replace(made.dataset, train=made.dataset.train.of(range(3)))),
        "no such train image, ids go to 2",
    ),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("what", WRONG)
def test_poisons_that_do_not_fit_are_refused(make: Any, tmp_path: Path, name: str, what: str) -> None:
    made = make()
    folder = written(name, made, tmp_path / "out")
    change, told = WRONG[what]
    other = change(made)
    with pytest.raises(InputError, match=told):
        read(name, folder, fingerprint(name, folder), other.dataset, other.case)


def test_poisons_of_several_classes_fit_a_case_of_several(make: Any, tmp_path: Path) -> None:
    made = make()
    mixed = made.dataset.train.of(range(4))
    assert len(set(mixed.labels)) > 1
    case = made.case.model_copy(update={"poison_class": None, "poison_ids": (0, 1, 2, 3)})
    made = replace(made, case=case, poisons=PoisonSet(mixed.ids, mixed.array, mixed.labels, made.poisons.info))
    for name in READ:
        folder = written(name, made, tmp_path / name)
        found = read(name, folder, fingerprint(name, folder), made.dataset, case)
        assert np.array_equal(found.labels, mixed.labels) and np.array_equal(found.images, mixed.array)


def test_a_target_that_comes_along_must_be_the_case_s(make: Any, tmp_path: Path) -> None:
    made = make()
    folder = written("benchmark", made, tmp_path / "out")
    sha256 = fingerprint("benchmark", folder)
    others = np.flatnonzero(made.dataset.test.labels == 0)
    for fields in ({"target_ids": (int(others[1]),)}, {"target_class": 1}):
        with pytest.raises(InputError, match="its target, of label 0, is not the one of case"):
            read("benchmark", folder, sha256, made.dataset, made.case.model_copy(update=fields))
    # The benchmark's how_to.md goes through floats, which may cost 1/255.
    images = np.clip(made.dataset.test.images.astype(int) - 1, 0, 255).astype(np.uint8)
    test = replace(made.dataset.test, images=images)
    assert len(read("benchmark", folder, sha256, replace(made.dataset, test=test), made.case)) == 4


def test_a_folder_that_changed_since_the_plan_is_refused(make: Any, tmp_path: Path) -> None:
    made = make()
    folder = written("image-folder", made, tmp_path / "out")
    sha256 = fingerprint("image-folder", folder)
    next(folder.rglob("*.png")).unlink()
    with pytest.raises(InputError, match="put back what was there"):
        read("image-folder", folder, sha256, made.dataset, made.case)
