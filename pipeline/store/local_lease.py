"""Leases in a folder: a file that holds its owner's name and is as old, by the disk's clock, as its last renewal."""

import os
from contextlib import suppress
from pathlib import Path

from pipeline.store.files import link_anew, temporary_file
from pipeline.store.lease import is_dead
from pipeline.store.names import LEASE_SECONDS


def acquire(path: Path, owner: str) -> float:
    """Take or renew the lease `path`; 0, or the seconds that another has it for. Raises OSError."""
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
    return 0.0


def release(path: Path, owner: str) -> None:
    """Drop the lease; nothing happens where `owner` does not have it."""
    with suppress(FileNotFoundError):
        if path.read_text() == owner:
            path.unlink()
