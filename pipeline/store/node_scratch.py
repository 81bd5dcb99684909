"""Scratch folders on a node's own disk, for a store that no file system shows.

Each process that works in one holds a shared lock on it, so that what a killed process left can be told from what a
living one writes: the outputs of its attempts go at once, checkpoints and logs after a week.
"""

import os
import re
import shutil
import threading
import time
from pathlib import Path
from uuid import uuid4

from pipeline.store.files import take_lock
from pipeline.store.names import whole_key

KEPT_SECONDS = 7 * 24 * 3600.0
"""A checkpoint that nobody came back to for so long is dropped: its step was done on another machine."""

_guard = threading.Lock()
_locks: dict[Path, int] = {}
"""The folders that this process works in."""
_swept: set[Path] = set()


class NodeScratch:
    """The scratch folders below `root`, one a key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, key: str) -> Path:
        """`<key>`, made if need be, and this process's until it clears it or ends. Raises OSError."""
        folder = self._root / whole_key(key)
        with _guard:
            if self._root not in _swept:
                _swept.add(self._root)
                self.sweep()
            if folder not in _locks:
                lock = take_lock(folder.with_suffix(".lock"), shared=True)
                assert lock is not None
                _locks[folder] = lock
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear(self, key: str) -> None:
        """Drop a folder; moved aside first, so that no other attempt sees half of it."""
        folder = self._root / whole_key(key)
        aside = folder.with_name(f".{uuid4().hex}.cleared")
        try:
            folder.rename(aside)
        except FileNotFoundError:
            pass
        else:
            shutil.rmtree(aside, ignore_errors=True)
        with _guard:
            lock = _locks.pop(folder, None)
        if lock is not None:
            os.close(lock)
            self._tidy(folder)

    def sweep(self) -> None:
        """Drop what dead processes left."""
        for cleared in self._root.glob(".*.cleared"):
            shutil.rmtree(cleared, ignore_errors=True)
        for path in self._root.glob("*.lock"):
            self._tidy(path.with_suffix(""))

    def _tidy(self, folder: Path) -> None:
        """Take out of a folder what nobody needs, unless a process works in it."""
        lock = take_lock(folder.with_suffix(".lock"), wait=False)
        if lock is None:
            return
        try:
            entries = list(folder.iterdir()) if folder.is_dir() else []
            for attempt in [entry for entry in entries if re.fullmatch("[0-9a-f]{32}", entry.name)]:
                shutil.rmtree(attempt, ignore_errors=True)
                entries.remove(attempt)
            if not any(time.time() - entry.stat().st_mtime < KEPT_SECONDS for entry in entries):
                shutil.rmtree(folder, ignore_errors=True)
                folder.with_suffix(".lock").unlink(missing_ok=True)
        finally:
            os.close(lock)
