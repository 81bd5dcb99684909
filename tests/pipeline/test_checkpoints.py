"""Checkpoints that go through the store: to another machine, and past a store that is away."""

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import StoredCheckpoint
from pipeline.store import StoreError
from pipeline.store.local import LocalStore

KEY = "ab" * 32


class Far(LocalStore):
    """A store whose scratch folders are each machine's own, as with S3. there: where what is pushed goes."""

    def __init__(self, machine: Path, there: Path) -> None:
        super().__init__(machine)
        self.there, self.away = there, False

    def push_scratch(self, key: str, name: str) -> str:
        if self.away:
            raise StoreError("no route to the store")
        self.there.mkdir(exist_ok=True)
        return str(shutil.copy(self.scratch(key) / name, self.there / f"{key}.{name}"))

    def pull_scratch(self, key: str, name: str, better: Callable[[Path], bool] = lambda _: True) -> None:
        if (self.there / f"{key}.{name}").exists() and better(self.there / f"{key}.{name}"):
            shutil.copy(self.there / f"{key}.{name}", self.scratch(key) / name)


def epoch(checkpoint: StoredCheckpoint) -> int | None:
    facts = checkpoint.facts()
    return None if facts is None else facts["epoch"]


def test_another_machine_goes_on_from_it(tmp_path: Path) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    assert StoredCheckpoint(other, KEY).load() is None and StoredCheckpoint(other, KEY).facts() is None
    for number in (1, 2):
        StoredCheckpoint(here, KEY).save({"a": torch.full((3,), number)}, {"epoch": number})
        assert epoch(StoredCheckpoint(other, KEY)) == number
        saved = StoredCheckpoint(other, KEY).load()
        assert saved is not None and torch.equal(saved[0]["a"], torch.full((3,), number))


def test_a_store_that_is_away_costs_a_warning_and_gets_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    checkpoint = StoredCheckpoint(here, KEY)
    here.away = True
    with caplog.at_level(logging.WARNING):
        checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
    assert "stays on this machine for now: no route to the store" in caplog.text
    assert StoredCheckpoint(other, KEY).load() is None and epoch(checkpoint) == 1
    here.away = False
    checkpoint.save({"a": torch.zeros(3)}, {"epoch": 2})
    assert epoch(StoredCheckpoint(other, KEY)) == 2


def test_the_furthest_checkpoint_counts_whichever_machine_has_it(tmp_path: Path) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))

    def loaded(store: Far) -> StoredCheckpoint:
        checkpoint = StoredCheckpoint(store, KEY)
        saved = checkpoint.load()
        assert saved is not None
        assert saved[1]["epoch"] == saved[0]["a"][0] == epoch(StoredCheckpoint(store, KEY))
        return checkpoint

    def save(checkpoint: StoredCheckpoint, number: int, seconds: float = 0) -> None:
        time.sleep(seconds)
        checkpoint.save({"a": torch.full((3,), number)}, {"epoch": number})

    first = StoredCheckpoint(here, KEY)
    save(first, 1)
    here.away = True
    save(first, 2)
    here.away = False
    assert epoch(loaded(here)) == 2, "which could not be brought to the store"
    second = loaded(other)
    assert epoch(second) == 1
    save(second, 3, seconds=1)
    assert epoch(loaded(here)) == 3
    here.scratch(KEY).joinpath("checkpoint.safetensors").write_bytes(b"cut short")
    assert epoch(loaded(here)) == 3
