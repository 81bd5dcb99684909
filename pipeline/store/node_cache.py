"""This node's cache of an object store's blobs, shared by all tasks and processes of the node.

    blobs/<sha256>          what was downloaded and checked; the least recently used go first
    downloads/<sha256>      on its way, behind a lock: each blob is downloaded once a node
    downloads/<uuid>        the same on its way to another store
    pins/<uuid>/<sha256>    hard links, for one folder that a process reads: what is pinned cannot be taken away
    hashed/<sha256>         notes on large files that were hashed

Everything in it may be deleted at any time that nothing runs. A process that dies leaves locks that no one holds; by
them the next one knows what to sweep.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import platformdirs

from pipeline.store.files import ADVICE, is_full, sha256_once, take_lock, temporary_file
from pipeline.store.manifest import Blob, StoreError
from stages.config import InputError

log = logging.getLogger(__name__)

FOLDER, BOUND = "BREWLINE_NODE_CACHE", "BREWLINE_NODE_CACHE_GB"

SWEEP_SECONDS = 60.0
"""How often a process that pins looks for what nobody reads any more; besides, it does where room is needed."""

_guard = threading.Lock()
_pins: dict[Path, tuple[int, Path]] = {}
"""The pins of this process: their lock, and the folder that each is for."""
_swept: dict[Path, float] = {}
"""When this process swept a cache last. A step of thousands of inputs pins as many folders."""


class NodeCache:
    """The cache in folder `root`. bound: bytes that it keeps at most, pinned ones aside; null is half of what the disk
    could give it."""

    def __init__(self, root: Path, bound: int | None = None) -> None:
        self.root = root
        self._bound = bound
        self._blobs, self._downloads, self._pinned = root / "blobs", root / "downloads", root / "pins"

    @staticmethod
    def of_node() -> "NodeCache":
        """The one that the environment names: a folder, and GB. Raises InputError for GB that are no number."""
        folder = os.environ.get(FOLDER) or Path(platformdirs.user_cache_dir("brewline")) / "node"
        given = os.environ.get(BOUND)
        try:
            bound = int(float(given) * 1e9) if given else None
        except (ValueError, OverflowError):
            bound = -1
        if bound is not None and bound < 0:
            raise InputError(f"{BOUND}={given}: expected a number of GB, as in 200")
        return NodeCache(Path(folder).expanduser().absolute(), bound)

    def probe(self) -> None:
        """Write and link a file. Raises InputError that names the folder."""
        try:
            with temporary_file(self.root) as first, temporary_file(self.root) as second:
                first.touch()
                os.link(first, second)
        except OSError as error:
            advice = ADVICE.get(error.errno or 0, "it must be a folder on a disk that makes hard links")
            raise InputError(
                f"this node's cache {self.root}: cannot be written ({error.strerror}); {advice}, with {FOLDER}"
            ) from error

    @contextmanager
    def passing(self) -> Iterator[Path]:
        """A free name on the cache's disk for a file that is not kept; what is under it goes, even if this process is
        killed."""
        self._sweep_sometimes()
        path = self._downloads / uuid4().hex
        lock = take_lock(path.with_suffix(".lock"))
        assert lock is not None
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
            os.close(lock)

    def holds(self, path: Path) -> bool:
        """Whether a file is a pinned blob, which is named by its sha256."""
        return path.parent.parent == self._pinned.resolve()

    def pin(self, folder: Path) -> Path:
        """A new pin for `folder`: it stays as long as that folder and this process do."""
        self._sweep_sometimes()
        pin = self._pinned / uuid4().hex
        lock = take_lock(pin.with_suffix(".lock"))
        assert lock is not None
        with _guard:
            _pins[pin] = lock, folder
        pin.mkdir()
        return pin

    def hold(self, blob: Blob, pin: Path, download: Callable[[Path], bool]) -> str | None:
        """Bring a blob into a pin, checked; else what is wrong with it. download: false where there is none to bring.

        Raises StoreError where the disk is full of what running steps hold.
        """
        held = pin / blob.sha256
        if self._link(blob, held):
            return None
        part = self._downloads / blob.sha256
        lock = take_lock(part.with_suffix(".lock"))
        assert lock is not None
        try:
            if self._link(blob, held):
                return None  # another process has brought it meanwhile
            try:
                if not self._bring(blob, part, download):
                    return "is not in the store"
                if part.stat().st_size != blob.size:
                    return f"has {part.stat().st_size} bytes, not {blob.size}"
                if sha256_once(part, self.root / "hashed") != blob.sha256:
                    return "holds other bytes than its sha256 says"
                part.chmod(0o444)
                os.link(part, held)
                self._blobs.mkdir(exist_ok=True)
                part.replace(self._blobs / blob.sha256)
                return None
            finally:
                part.unlink(missing_ok=True)
        finally:
            part.with_suffix(".lock").unlink(missing_ok=True)
            os.close(lock)

    def _link(self, blob: Blob, held: Path) -> bool:
        """Pin a blob that is in the cache; one that is damaged is dropped."""
        stored = self._blobs / blob.sha256
        try:
            os.link(stored, held)
        except FileExistsError:
            pass
        except FileNotFoundError:
            return False
        facts = held.stat()
        if facts.st_size == blob.size and sha256_once(held, self.root / "hashed") == blob.sha256:
            os.utime(held, ns=(time.time_ns(), facts.st_mtime_ns))  # disks seldom note when a file is read
            return True
        log.warning("dropped %s from this node's cache: it holds other bytes than its sha256 says", stored)
        held.unlink(missing_ok=True)
        stored.unlink(missing_ok=True)
        return False

    def _bring(self, blob: Blob, part: Path, download: Callable[[Path], bool]) -> bool:
        """Download a blob, with room made for it."""
        self._evict(self._excess(blob.size))
        while True:
            try:
                return download(part)
            except OSError as error:
                if not is_full(error) or not self._evict(blob.size):
                    raise self.explained(error, part, blob.size) from error

    def explained(self, error: OSError, path: Path, needed: int) -> StoreError:
        """What an error of this node's disk means, for people."""
        if not is_full(error):
            return StoreError(f"this node's cache {self.root}: {error}")
        free = shutil.disk_usage(self.root).free
        return StoreError(
            f"this node's cache {self.root}: the disk is full: {needed:,} bytes are needed for {path}, {free:,} are "
            f"free, and all else in it is in use. Free some space, or name another folder with {FOLDER}, and run "
            "again; nothing was lost"
        )

    def _kept(self) -> list[tuple[Path, os.stat_result]]:
        """All blobs, the least recently used first."""
        found = []
        for path in self._blobs.iterdir() if self._blobs.is_dir() else ():
            with suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda entry: entry[1].st_atime_ns)

    def _excess(self, size: int) -> int:
        """Bytes to give up so that a file of `size` stays within the bound."""
        held = sum(facts.st_size for _, facts in self._kept())
        bound = (shutil.disk_usage(self.root).free + held) // 2 if self._bound is None else self._bound
        return held + size - bound

    def _evict(self, excess: int) -> int:
        """Drop blobs that nobody reads until `excess` bytes are free; says how many."""
        freed = 0
        if excess > 0:
            self.sweep()
        for path, facts in self._kept() if excess > 0 else ():
            if freed >= excess:
                break
            if facts.st_nlink == 1:  # who links it right now keeps its bytes all the same
                path.unlink(missing_ok=True)
                (self.root / "hashed" / path.name).unlink(missing_ok=True)
                freed += facts.st_size
        return freed

    def _sweep_sometimes(self) -> None:
        if time.monotonic() - _swept.get(self.root, -SWEEP_SECONDS) >= SWEEP_SECONDS:
            self.sweep()

    def sweep(self) -> None:
        """Drop what nobody reads any more: this process's pins of folders that are gone, and all that the dead left."""
        with _guard:
            _swept[self.root] = time.monotonic()
            done = [pin for pin, (_, folder) in _pins.items() if not folder.exists()]
            locks = {pin: _pins.pop(pin)[0] for pin in done}
        for pin, lock in locks.items():
            _drop(pin, lock)
        for path in self._pinned.glob("*.lock"):
            if (unused := take_lock(path, wait=False)) is not None:
                _drop(path.with_suffix(""), unused)
        for path in self._downloads.glob("*.lock"):
            if (unused := take_lock(path, wait=False)) is not None:
                for part in self._downloads.glob(f"{path.stem}*"):
                    part.unlink(missing_ok=True)
                os.close(unused)


def _drop(pin: Path, lock: int) -> None:
    shutil.rmtree(pin, ignore_errors=True)
    pin.with_suffix(".lock").unlink(missing_ok=True)
    os.close(lock)


def lay(source: Path, target: Path) -> None:
    """A link to a pinned blob at `target`. One of an attempt that was interrupted is replaced: its pin may be gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        if target.readlink().name == source.name:
            target.unlink()
    try:
        target.symlink_to(source)
    except FileExistsError as error:
        raise StoreError(f"{target} is there already and is not {source}; fetch into a new folder") from error
