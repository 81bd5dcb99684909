"""What a commit needs of a file system: whole writes, names that are given once, content that can be checked."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from uuid import uuid4

from pipeline.store.manifest import StoreError

LARGE = 1 << 26
"""Bytes of a file whose sha256 is remembered while its inode, size and time stay."""

FULL = (errno.ENOSPC, errno.EDQUOT)

ADVICE = {
    errno.EACCES: "make it writable for this user, or choose another folder",
    errno.EROFS: "it is mounted read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EEXIST: "it is a file: choose another name",
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.ENOLCK: "its file system has no locks: choose a folder on another file system",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
}
"""What to do about a folder that cannot be a store, by the error that says so."""


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk is full, or a quota used up. safetensors' and Arrow's say so in words only."""
    return getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL)


def explained(error: OSError, store: Path, path: Path, needed: int) -> StoreError:
    """What an error of a folder store's disk means, for people, as `path` of `needed` bytes was to be stored."""
    if not is_full(error):
        return StoreError(f"store {store}: {error}; what was to be stored is still in {path}")
    free = shutil.disk_usage(store).free
    return StoreError(
        f"store {store}: the disk is full: up to {needed:,} bytes are needed for {path}, {free:,} are free. "
        "Free some space and run again; nothing was lost"
    )


def sha256_of(path: Path) -> str:
    """A file's sha256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path, remembered: Path) -> str:
    """A file's sha256, computed once a process as long as the file is the same, and a large file's once for all.

    remembered: a folder of notes on large files that were hashed: a base of ImageNet is 200 GB, and each process of
    each machine would read all of it before its first batch.
    """
    facts = path.stat()
    if facts.st_size < LARGE:
        return _sha256_of_state(_State(path.name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, path))
    state = f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns} "
    note = remembered / path.name
    with suppress(FileNotFoundError):  # none yet, or just dropped with its file
        known = note.read_text()
        if known.startswith(state) and len(known) == len(state) + 64:
            return known.removeprefix(state)
    digest = sha256_of(path)
    with suppress(OSError), temporary_file(remembered) as temporary:  # who may only read hashes again
        write_down(temporary, (state + digest).encode())
        temporary.replace(note)
    return digest


@dataclass(frozen=True)
class _State:
    """What stays the same as long as a file does, though it be linked into one folder after the other."""

    name: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    path: Path = field(compare=False)


@lru_cache(maxsize=100_000)
def _sha256_of_state(state: _State) -> str:
    return sha256_of(state.path)


def plain_files(folder: Path, stored: Callable[[Path], bool]) -> list[tuple[str, Path]]:
    """All files below `folder` as (POSIX name, path), sorted; a link to a file that is `stored` already is one too.

    Raises StoreError if one is another link or a device.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, files in os.walk(folder, onerror=fail):
        for path in (Path(parent, name) for name in [*folders, *files]):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) or (stat.S_ISLNK(mode) and stored(path.resolve())):
                found.append((path.relative_to(folder).as_posix(), path))
            elif not stat.S_ISDIR(mode):
                raise StoreError(
                    f"output {path} is a link or a device; a stage writes plain files, or links to its inputs"
                )
    return sorted(found)


@contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """A free name in `folder`, which is made if need be; nothing is left under it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{uuid4().hex}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_down(path: Path, data: bytes) -> None:
    """Write a new file down to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def link_anew(source: Path, target: Path) -> bool:
    """Give a file a second name; False if that name is taken. Atomic: of several, exactly one gets True."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """A second name where both are on one disk, else a copy."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, down to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def take_lock(path: Path, shared: bool = False, wait: bool = True) -> int | None:
    """A lock, held until the descriptor is closed or the process dies; null where another has it and we do not wait.

    Who holds it alone may delete its file.
    """
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, how)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out for the length of a block, on all machines. path: the lock's file."""
    lock = take_lock(path)
    assert lock is not None
    try:
        yield
    finally:
        os.close(lock)
