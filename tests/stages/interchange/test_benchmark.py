"""The benchmark's pickles, as its own code would read them, and pickles that must not be read."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ToTensor

from stages.config import InputError
from stages.interchange import benchmark
from stages.interchange.external import fingerprint, read

SHAPE = (6, 5, 3)


@pytest.fixture
def folder(make: Any, tmp_path: Path) -> Path:
    benchmark.write(make(only_poisons=True), tmp_path, lambda images: None)
    return tmp_path


def test_the_benchmark_finds_what_it_looks_for(make: Any, folder: Path) -> None:
    """What poison_test.py does with the three files: unpickle, ToTensor, and the largest change of each poison."""
    made = make(only_poisons=True)
    poisons, bases, (target, label) = (
        pickle.loads((folder / f"{name}.pickle").read_bytes()) for name in ("poisons", "base_indices", "target")
    )
    assert isinstance(target, Image.Image) and (type(label), label) == (int, made.case.target_class)
    assert np.array_equal(np.asarray(target), made.dataset.test.images[made.case.target_ids[0]])
    assert len(poisons) == len(bases) == len(made.poisons)
    for (image, of), base in zip(poisons, bases, strict=True):
        assert (type(of), of) == (int, made.case.poison_class) == (int, made.dataset.train.labels[base])
        change = torch.max(torch.abs(ToTensor()(image) - ToTensor()(made.dataset.train.images[base])))
        assert 0 < change.item() < 9 / 255


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_pickles_of_others_come_back(make: Any, folder: Path, protocol: int) -> None:
    """how_to.md writes with the highest protocol and has the base ids in a numpy array; labels may be numpy's too."""
    made = make(only_poisons=True)
    for file in folder.glob("*.pickle"):
        held = pickle.loads(file.read_bytes())
        if file.name == benchmark.BASES:
            held = np.array(held)
        if file.name == benchmark.POISONS:
            held = [(image, np.int64(label)) for image, label in held]
        if file.name == benchmark.TARGET and protocol == 3:  # the benchmark's first examples have no label
            held = held[0]
        file.write_bytes(pickle.dumps(held, protocol))
    back = read("benchmark", folder, fingerprint("benchmark", folder), made.dataset, made.case)
    assert back.sha256() == made.poisons.sha256()


class _Runs:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("name", [benchmark.POISONS, benchmark.BASES, benchmark.TARGET])
def test_nothing_of_theirs_is_run(folder: Path, name: str) -> None:
    witness = folder / "witness"
    for call in (os.system, Image.open, np.fromfile):
        (folder / name).write_bytes(pickle.dumps([_Runs(call, (f"touch {witness}",))]))
        with pytest.raises(InputError, match=rf"{name}: asks for .*{call.__name__}.*so it was not read"):
            benchmark.read(folder, SHAPE)
    assert not witness.exists()


GREY = Image.fromarray(np.zeros((6, 5), np.uint8))
COLOUR = Image.fromarray(np.zeros(SHAPE, np.uint8))
WRONG: dict[str, tuple[str, Any, str]] = {
    "no list": (benchmark.POISONS, "text", "holds a str; expected 4"),
    "too few": (benchmark.POISONS, [(COLOUR, 2)] * 3, "holds 3 things; expected 4"),
    "no pair": (benchmark.POISONS, [COLOUR] * 4, "poison 0 is a Picture, expected"),
    "no label": (benchmark.POISONS, [(COLOUR, "dog")] * 4, "expected"),
    "grey": (benchmark.POISONS, [(GREY, 2)] * 4, r"of the shape \(6, 5, 1\), expected the shape \(6, 5, 3\)"),
    "palette": (benchmark.POISONS, [(COLOUR.convert("P"), 2)] * 4, "mode 'P'"),
    "floats": (benchmark.BASES, np.array([0.5]), "type 'f8'"),
    "no ids": (benchmark.BASES, [], "0 things"),
    "huge": (benchmark.BASES, [1, 2, 3, 2**70], "no train id"),
    "backdoor": (benchmark.TARGET, (COLOUR, 0, [1.0], [3, 4]), "has a patch"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_none_is_named(folder: Path, what: str) -> None:
    name, held, told = WRONG[what]
    (folder / name).write_bytes(pickle.dumps(held, 4))
    with pytest.raises(InputError, match=f"{name}.*{told}"):
        benchmark.read(folder, SHAPE)


def test_a_missing_pickle_is_named(folder: Path) -> None:
    (folder / benchmark.TARGET).unlink()
    with pytest.raises(InputError, match=r"target\.pickle: there is no such file"):
        benchmark.files(folder)


def test_several_targets_are_refused(make: Any) -> None:
    made = make()
    several = replace(made, case=made.case.model_copy(update={"target_ids": (0, 1)}))
    with pytest.raises(InputError, match=r"2 targets, and target\.pickle holds one"):
        benchmark.refuse(several)
    benchmark.refuse(made)
