"""Checkpoints that go through the store: to another machine, and past a store that is away."""

import logging
import shutil
import threading
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
        self.there, self.away, self.pushes = there, False, 0
        self.answers = threading.Event()
        self.answers.set()

    def push_scratch(self, key: str, name: str) -> str:
        self.pushes += 1
        if self.away or not self.answers.wait(10):
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
    checkpoint = StoredCheckpoint(here, KEY)
    for number in (1, 2):
        with checkpoint:
            checkpoint.save({"a": torch.full((3,), number)}, {"epoch": number})
        assert epoch(StoredCheckpoint(other, KEY)) == number
        saved = StoredCheckpoint(other, KEY).load()
        assert saved is not None and torch.equal(saved[0]["a"], torch.full((3,), number))


def test_a_store_that_is_away_costs_a_warning_and_gets_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    checkpoint = StoredCheckpoint(here, KEY)
    here.away = True
    with caplog.at_level(logging.WARNING), checkpoint:
        checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
    assert "stays on this machine for now: no route to the store" in caplog.text
    assert StoredCheckpoint(other, KEY).load() is None and epoch(checkpoint) == 1
    here.away = False
    with checkpoint:
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
        checkpoint.flush()

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


def test_a_step_does_not_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    here.answers.clear()
    with StoredCheckpoint(here, KEY) as checkpoint:
        started = time.monotonic()
        for number in range(5):
            checkpoint.save({"a": torch.zeros(3)}, {"epoch": number})
            while not here.pushes:
                time.sleep(0.01)
        assert time.monotonic() - started < 5
        assert epoch(StoredCheckpoint(other, KEY)) is None
        here.answers.set()
    assert epoch(StoredCheckpoint(other, KEY)) == 4
    assert here.pushes <= 2, "the newest alone follows the one under way"


@pytest.mark.parametrize("how", ["hurry", "failure"])
def test_the_last_checkpoint_is_in_the_store_before_the_machine_goes_or_the_step_ends(how: str, tmp_path: Path) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    here.answers.clear()
    threading.Timer(0.5, here.answers.set).start()

    def save() -> None:
        StoredCheckpoint(here, KEY, lambda: True).save({"a": torch.zeros(3)}, {"epoch": 1})

    def fail() -> None:
        with StoredCheckpoint(here, KEY) as checkpoint:
            checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
            raise FloatingPointError

    if how == "hurry":
        save()
    else:
        with pytest.raises(FloatingPointError):
            fail()
    assert epoch(StoredCheckpoint(other, KEY)) == 1


def test_a_step_that_is_interrupted_does_not_wait(tmp_path: Path) -> None:
    here = Far(tmp_path / "here", tmp_path / "there")
    here.answers.clear()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), StoredCheckpoint(here, KEY) as checkpoint:
        checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
        raise KeyboardInterrupt
    assert time.monotonic() - started < 5
    here.answers.set()
    checkpoint.flush()


def test_a_crash_while_a_checkpoint_is_brought_is_seen_and_the_next_is_brought(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = (Far(tmp_path / name, tmp_path / "there") for name in ("here", "other"))
    (tmp_path / "there").write_bytes(b"no folder")
    checkpoint = StoredCheckpoint(here, KEY)
    with checkpoint:
        checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
    assert "Traceback" in caplog.text and "FileExistsError" in caplog.text
    (tmp_path / "there").unlink()
    with checkpoint:
        checkpoint.save({"a": torch.zeros(3)}, {"epoch": 2})
    assert epoch(StoredCheckpoint(other, KEY)) == 2
