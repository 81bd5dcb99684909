"""Checkpoints that outlive their machine: brought to the store once they are saved, so that an attempt on another
machine goes on from there. The step goes on meanwhile, for a store may be away for minutes."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.store import Store, StoreError
from stages.stage import Checkpoint, facts_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SO_FAR = "seconds_so_far"
"""The fact of a checkpoint that says how long the step had computed."""


class StoredCheckpoint(Checkpoint):
    """The checkpoint of the step `key`, in the step's scratch folder and in the store.

    As a context it ends when the last that was saved is in the store, unless the process is interrupted.
    """

    def __init__(self, store: Store, key: str, hurry: Callable[[], bool] = lambda: False) -> None:
        """hurry: whether this machine is about to go; then `save` waits until the checkpoint is in the store."""
        super().__init__(store.scratch(key))
        self._store, self._key, self._hurry = store, key, hurry
        self._guard = threading.Lock()
        self._newer = False
        self._pushing: threading.Thread | None = None
        self._before, self._began = 0.0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.flush()

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
        with self._guard:
            self._newer = True
            if self._pushing is None:
                self._pushing = threading.Thread(target=self._push, daemon=True)
                self._pushing.start()
        if self._hurry():
            self.flush()

    def flush(self) -> None:
        """Wait until the last that was saved is in the store, or could not be brought there."""
        with self._guard:
            pushing = self._pushing
        if pushing is not None:
            pushing.join()

    def _push(self) -> None:
        """Bring the checkpoint to the store until there is no newer one."""
        while True:
            with self._guard:
                if not self._newer:
                    self._pushing = None
                    return
                self._newer = False
            try:
                self._store.push_scratch(self._key, self.file.name)
            except StoreError as error:
                log.warning("the checkpoint of %s stays on this machine for now: %s", self._key[:12], error)
            except Exception:
                log.exception("the checkpoint of %s stays on this machine for now", self._key[:12])

    def _pull(self) -> None:
        """This machine's own may be further than what it could bring to the store."""
        self._store.pull_scratch(self._key, self.file.name, lambda pulled: _so_far(pulled) >= _so_far(self.file))


def _so_far(checkpoint: Path) -> float:
    """How long the step had computed at a checkpoint; below 0 where there is no whole one."""
    facts = facts_of(checkpoint)
    return -1.0 if facts is None else facts.get(SO_FAR, 0.0)
