"""Checkpoints that outlive their machine: brought to the store as they are saved, so that an attempt on another machine
goes on from there."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.store import Store, StoreError
from stages.stage import Checkpoint

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SO_FAR = "seconds_so_far"
"""The fact of a checkpoint that says how long the step had computed."""


class StoredCheckpoint(Checkpoint):
    """The checkpoint of the step `key`, in the step's scratch folder and in the store."""

    def __init__(self, store: Store, key: str) -> None:
        super().__init__(store.scratch(key))
        self._store, self._key = store, key
        self._before, self._began = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the step has computed, with what went into the checkpoint that it goes on from."""
        return self._before + time.monotonic() - self._began

    def load(self) -> "tuple[dict[str, torch.Tensor], dict[str, Any]] | None":
        """The furthest of this machine's and the last that any brought. Raises StoreError where the store cannot be
        asked."""
        self._pull()
        saved = super().load()
        if saved is not None:
            self._before = saved[1].pop(SO_FAR, 0.0)
        return saved

    def facts(self) -> dict[str, Any] | None:
        """The facts of the checkpoint that `load` gives. Raises StoreError as it does."""
        self._pull()
        return super().facts()

    def save(self, tensors: "Mapping[str, torch.Tensor]", facts: Mapping[str, Any]) -> None:
        """A store that is away costs a warning: the step goes on, and the next checkpoint is brought there."""
        super().save(tensors, {**facts, SO_FAR: self.seconds})
        try:
            self._store.push_scratch(self._key, self.file.name)
        except StoreError as error:
            log.warning("the checkpoint of %s stays on this machine for now: %s", self._key[:12], error)

    def _pull(self) -> None:
        """This machine's own may be further than what it could bring to the store."""
        self._store.pull_scratch(self._key, self.file.name, lambda pulled: _so_far(pulled) >= _so_far(self.file))


def _so_far(file: Path) -> float:
    """How long the step had computed at a checkpoint; below 0 where there is no whole one."""
    kept = Checkpoint(file.parent)
    kept.file = file
    facts = kept.facts()
    return -1.0 if facts is None else facts.get(SO_FAR, 0.0)
