"""What must hold for every format of the registry, whatever the images, the classes and the poisons."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.brew.attacks import External
from stages.config import InputError
from stages.data.images import ImageSet
from stages.interchange import FORMATS, Content, content, external
from stages.interchange.delivery import deliver

QUICK = [name for name, form in FORMATS.items() if not form.reads_at_once]
"""FFCV compiles for ten seconds whenever it reads: .beton files have tests of their own."""

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def quiet(images: int) -> None:
    """Nobody watches."""


def written(name: str, made: Content, folder: Path) -> None:
    deliver(FORMATS[name], made, folder, {}, quiet, quiet)


@pytest.mark.parametrize("name", QUICK)
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    classes=st.lists(NAMES, min_size=2, max_size=12, unique=True),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    poisons=st.integers(1, 6),
    only_poisons=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_is_written_reads_back(make: Any, name: str, **drawn: Any) -> None:
    """`deliver` itself compares every poison and a sample of clean images with what their users' reader gives."""
    form = FORMATS[name]
    drawn["only_poisons"] |= form.only_poisons
    made = make(**drawn)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        written(name, made, folder)
        for split, rows in made.splits.items():
            everything = np.arange(len(rows))
            images, labels = form.read_back(made, folder, split, everything)
            assert np.array_equal(images, rows.at(everything).images)
            assert np.array_equal(labels, rows.labels)
        assert {entry.name for entry in Path(temporary).iterdir()} == {"out"}
        if form.back is not None and (made.only_poisons or name == "arrow"):
            case, found = made.case, external.fingerprint(name, folder)
            back = external.read(name, folder, found, made.dataset, case)
            assert back.sha256() == made.poisons.sha256()


@pytest.mark.parametrize("name", QUICK)
def test_a_poison_is_where_the_image_was_and_nothing_else_changes(make: Any, name: str) -> None:
    made = make(only_poisons=FORMATS[name].only_poisons)
    rows = made.splits["train"]
    shown = rows.at(slice(None))
    poison = np.isin(shown.ids, made.poisons.ids)
    assert np.array_equal(shown.poison, poison) and poison.sum() == len(made.poisons)
    assert np.array_equal(shown.images[poison], made.poisons.images)
    clean = made.dataset.train.of(shown.ids[~poison])
    assert np.array_equal(shown.images[~poison], clean.images)
    assert not np.array_equal(shown.images, made.dataset.train.of(shown.ids).images)


def test_the_formats_that_an_attack_may_name_are_those_that_are_read() -> None:
    named = get_args(External.model_fields["format"].annotation)
    assert set(named) == {name for name, form in FORMATS.items() if form.back is not None}


class FarAway:
    """Images of which nobody holds more than a batch at once, and which are no array."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.shape, self.most = images, images.shape, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> np.ndarray:
        assert isinstance(index, int | slice | np.ndarray)
        found = self.images[index].copy()
        self.most = max(self.most, found.size)
        return found


@pytest.mark.parametrize("name", QUICK)
def test_no_more_than_a_batch_is_in_memory(
    make: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(per_class=200, only_poisons=FORMATS[name].only_poisons)
    limit = 64 * math.prod(made.dataset.info.shape)
    monkeypatch.setattr(content, "BATCH_BYTES", limit)
    train, test = made.dataset.train, made.dataset.test
    far = [FarAway(split.images) for split in (train, test)]
    lazy = [ImageSet(images, split.labels, split.ids) for images, split in zip(far, (train, test), strict=True)]  # type: ignore[arg-type]
    written(name, replace(made, dataset=replace(made.dataset, train=lazy[0], test=lazy[1])), tmp_path / "out")
    assert all(images.most <= limit for images in far)
    if not made.only_poisons:
        assert all(images.most > 0 for images in far)


def damaged(name: str, made: Content, folder: Path) -> None:
    """Write as the format does, and then change one pixel of the first poison."""
    changed = made.poisons.images.copy()
    changed[0, 0, 0, 0] ^= 1
    FORMATS[name].write(replace(made, poisons=replace(made.poisons, images=changed)), folder, quiet)


@pytest.mark.parametrize("name", QUICK)
def test_one_wrong_pixel_is_found_and_nothing_is_left(make: Any, name: str, tmp_path: Path) -> None:
    made = make(only_poisons=FORMATS[name].only_poisons)

    def write(made: Content, folder: Path, tell: Any) -> None:
        damaged(name, made, folder)

    with pytest.raises(RuntimeError, match=f"train image {made.poisons.ids[0]} does not read back"):
        deliver(replace(FORMATS[name], write=write), made, tmp_path / "out", {}, quiet, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", QUICK)
def test_progress_is_told_of_every_image(make: Any, name: str, tmp_path: Path) -> None:
    made = make(only_poisons=FORMATS[name].only_poisons)
    told: list[int] = []
    FORMATS[name].write(made, tmp_path, told.append)
    assert sum(told) == len(made)


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.back is not None])
def test_damaged_folders_are_refused_or_hold_the_same_number(make: Any, name: str, tmp_path: Path) -> None:
    """Every byte of what comes from outside may be anything: the answer is poisons or an InputError, never a crash."""
    made = make(only_poisons=True)
    written(name, made, tmp_path / "out")
    way = FORMATS[name].back
    assert way is not None
    rng, refused = np.random.default_rng(0), 0
    for file in way.files(tmp_path / "out"):
        good = file.read_bytes()
        for _ in range(80):
            bad = bytearray(good)
            bad[rng.integers(len(bad))] = rng.integers(256)
            file.write_bytes(bad if rng.integers(4) else bad[: rng.integers(len(bad))])
            try:
                found = way.read(tmp_path / "out", made.dataset.info.shape)
                assert found.images.shape[1:] == made.dataset.info.shape
                sha256 = external.fingerprint(name, tmp_path / "out")
                external.read(name, tmp_path / "out", sha256, made.dataset, made.case)
            except InputError:
                refused += 1
        file.write_bytes(good)
    assert refused > 20
