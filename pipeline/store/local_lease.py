"""Leases in a folder: a file that holds its owner's name and is as old, by the disk's clock, as its last renewal."""

import os
from contextlib import suppress
from pathlib import Path

from pipeline.store.files import explained, link_anew, temporary_file
from pipeline.store.lease import is_dead
from pipeline.store.names import LEASE_SECONDS, whole_key


class Leases:
    """The part of a folder store that keeps leases."""

    _root: Path

    def acquire(self, key: str, owner: str) -> float:
        """By the file system's clock."""
        path = self._lease(key)
        try:
            with temporary_file(path.parent) as temporary:
                temporary.write_text(owner)
                while not link_anew(temporary, path):
                    try:
                        holder, renewed = path.read_text(), path.stat().st_mtime
                        if holder == owner:
                            os.utime(path)
                            return 0.0
                    except FileNotFoundError:
                        continue  # given back since
                    left = LEASE_SECONDS - (temporary.stat().st_mtime - renewed)
                    if left > 0 and not is_dead(holder):
                        return left
                    temporary.replace(path)  # two that do so at once both work, and one commit counts
                    break
        except OSError as error:
            raise explained(error, self._root, path, len(owner)) from error
        return 0.0

    def release(self, key: str, owner: str) -> None:
        """Drop the file."""
        path = self._lease(key)
        with suppress(FileNotFoundError):
            if path.read_text() == owner:
                path.unlink()

    def _lease(self, key: str) -> Path:
        return self._root / "leases" / whole_key(key)
