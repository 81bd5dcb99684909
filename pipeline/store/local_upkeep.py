"""What `brewline cache gc` needs of a folder store: how old things are, and taking away what nobody needs.

A file's age is the time since its inode was changed last (ctime): by the file system's own clock, never copied from
another file, and renewed without a touch of the modification time, which says whether a file must be hashed again.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pipeline.store.files import locked, temporary_file
from pipeline.store.names import KEY, LEASE_SECONDS, whole_key

FILES = (".*.tmp", "*/.*.tmp", "steps/*/.*.tmp", "runs/*/.*.tmp", "leases/[0-9a-f]*")
"""Where this store has temporary files, and leases."""


class Upkeep:
    """The part of a folder store that keeps it small."""

    _root: Path
    _blobs: Path
    _lock: Path

    def blobs(self) -> Iterator[tuple[str, int, float]]:
        """The files of a digest's name."""
        now = self._now()
        for path in sorted(self._blobs.glob("[0-9a-f]*")):
            if KEY.fullmatch(path.name):
                with suppress(FileNotFoundError):  # collected since
                    size, changed = _size_and_change(path)
                    yield path.name, size, now - changed

    def remove_blob(self, sha256: str, grace: float) -> bool:
        """Under the lock that a commit refreshes blobs under: one comes first, and the other sees it."""
        path = self._blobs / whole_key(sha256)
        try:
            with locked(self._lock):
                if self._now() - path.stat().st_ctime < grace:
                    return False
                path.unlink()
        except FileNotFoundError:
            return False
        (self._root / "hashed" / sha256).unlink(missing_ok=True)
        return True

    def sweep(self, grace: float, done: Collection[str], dry: bool) -> Iterator[tuple[str, int]]:
        """By the names that the store gives: temporary files, cleared folders, leases, scratch folders."""
        now = self._now()
        folders = [path for path in self._root.glob("scratch/*") if path.name in done or path.suffix == ".cleared"]
        files = [path for pattern in FILES for path in self._root.glob(pattern)]
        for path in sorted([*folders, *files]):
            try:
                size, changed = _size_and_change(path)
            except FileNotFoundError:
                continue  # whoever made it has taken it away
            if now - changed < max(grace, LEASE_SECONDS if path.parent.name == "leases" else 0):
                continue
            if not dry and path.is_dir():
                self.clear_scratch(path.name) if path.name in done else shutil.rmtree(path, ignore_errors=True)
            elif not dry:
                path.unlink(missing_ok=True)
            yield path.relative_to(self._root).as_posix(), size

    def clear_scratch(self, key: str) -> None:
        """Moved aside first, so that no other attempt sees half of it."""
        folder = self._root / "scratch" / whole_key(key)
        aside = folder.with_name(f".{uuid4().hex}.cleared")
        try:
            folder.rename(aside)
        except FileNotFoundError:
            return
        # A network file system keeps files that another attempt has open: that must not fail a step that is done.
        shutil.rmtree(aside, ignore_errors=True)

    def _refresh(self, path: Path) -> None:
        """Make a blob young. Raises FileNotFoundError if it is not there."""
        with locked(self._lock):
            facts = path.stat()
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def _now(self) -> float:
        with temporary_file(self._root) as temporary:
            temporary.touch()
            return temporary.stat().st_ctime


def _size_and_change(path: Path) -> tuple[int, float]:
    """Bytes of a file, or of all files in a folder, that have no name elsewhere; and when any was changed last."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    facts = [found.lstat() for found in paths]
    return (
        sum(one.st_size for found, one in zip(paths, facts, strict=True) if found.is_file() and one.st_nlink == 1),
        max(one.st_ctime for one in facts),
    )
