"""Where outputs live: what every store promises, and how to open one.

    blobs/<sha256>               content-addressed, immutable
    steps/<stage>/<key>.json     the manifest: written last, and it alone means that a step is done
    runs/<run>/…                 the experiment as given, event log, summary
    scratch/<key>/…              checkpoints and outputs of steps that are not done

Execution is at least once, commit at most once: any number of processes, on any machines, may run the same step; one
manifest results and all of them get it. Nothing here knows what a step computes.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pipeline.store.manifest import Blob, DamagedBlob, Manifest, StoreError, new_write_id
from pipeline.store.names import LEASE_SECONDS
from stages.config import InputError

__all__ = ["LEASE_SECONDS", "Blob", "DamagedBlob", "Manifest", "Store", "StoreError", "new_write_id", "open_store"]


class Store(Protocol):
    """What every kind of store does. Keys are whole; `find` makes them of beginnings."""

    url: str
    """Opens this store again, from any working folder."""

    def probe(self) -> None:
        """Try out the requests of a commit, on names of its own that it drops again; makes the store where it is a
        folder that is not there. Raises InputError that says what is missing and what to do, within seconds.

        What only old outputs and `cache gc` need is not tried: in S3 copies on the server, and lists of uploads.
        """
        ...

    def reach(self) -> None:
        """For a command that only reads: one request, so that a store that does not answer is told within seconds; all
        others are tried again for minutes. Raises InputError that says what is wrong and what to do."""
        ...

    def read(self, stage: str, key: str) -> Manifest | None:
        """The step's manifest; None only if there is none. Raises StoreError if it is there and cannot be read."""
        ...

    def missing(self, manifest: Manifest) -> list[Blob]:
        """The blobs that are absent or of another size: cheap, for a hit. Content is checked by `fetch`."""
        ...

    def look(self, steps: Iterable[tuple[str, str]]) -> Iterator[tuple[Manifest, list[Blob]]]:
        """`read` and `missing` of many steps (stage, key) at once, as quick as the store can; those that are committed,
        in any order. Raises as `read` does."""
        ...

    def verify(self, manifest: Manifest) -> list[str]:
        """Every blob read and hashed; a sentence for each that is absent or damaged."""
        ...

    def fetch(self, manifest: Manifest, folder: Path) -> None:
        """Lay out a step's outputs under `folder`, read-only, each checked for its sha256.

        A file is hashed once a process, a large one once as long as it is the same file. Raises DamagedBlob if one is
        absent or holds other bytes.
        """
        ...

    def commit(self, folder: Path, draft: Manifest, again: bool = False) -> Manifest:
        """Store all files under `folder` and then the manifest; returns the manifest that counts.

        again: the step runs once more because its output is damaged: nothing that is there is taken for whole.

        A link to a file that `fetch` laid out is stored as that blob, at no cost.

        That is `draft` with its blobs, or, where another attempt was first, theirs. One whose blobs are damaged is
        repaired: by these blobs if they are the same, else by replacing the manifest. Empty folders are not kept.
        Raises StoreError, with no manifest written and `folder` left as it is, e.g. if the disk is full.
        """
        ...

    def blob_file(self, blob: Blob) -> AbstractContextManager[Path]:
        """A file on this machine, for the length of a block, that holds a blob: only to be read, and checked for its
        sha256. Raises StoreError if the blob is absent or holds other bytes."""
        ...

    def upload(self, blob: Blob, source: Path) -> None:
        """Store a copy of `source` as `blob`. Raises StoreError if it has another sha256, or cannot be stored."""
        ...

    def give_up(self) -> None:
        """End the transfers that this process has under way, for whoever is interrupted: what calls for them fails.

        In S3 they end with the parts in flight and leave nothing; a copy on a disk ends with its file.
        """
        ...

    def settle(self, manifest: Manifest) -> Manifest:
        """The last part of a commit: write the manifest; returns the one that counts.

        Raises StoreError where one of its blobs is not there, or of another size.
        """
        ...

    def scratch(self, key: str) -> Path:
        """A folder on this machine for a step that is not done; it stays until `clear_scratch`, and after a crash."""
        ...

    def push_scratch(self, key: str, name: str) -> str:
        """Bring a file of `scratch(key)`, a checkpoint or a log, as it is now, to where attempts on other machines find
        it, in place of one that was pushed there by any of them. Says where that is, for people.

        A folder store has nothing to bring, and does not look for the file. Else raises StoreError where the file is
        not there, or cannot be brought.
        """
        ...

    def pull_scratch(self, key: str, name: str, better: Callable[[Path], bool] = lambda _: True) -> None:
        """Bring the file that was pushed last, on any machine, into `scratch(key)`; nothing happens without one.

        better: asked, with the pushed file on this machine, whether it is to take the place of what is there.
        """
        ...

    def acquire(self, key: str, owner: str) -> float:
        """Take the lease on a step, or renew it; 0 where `owner` has it now.

        Else the seconds after which the lease of another, who has it, would end if it were not renewed. It ends
        LEASE_SECONDS after it was renewed last, by the store's own clock. A lease only saves double work: commits do
        not look at it.
        """
        ...

    def release(self, key: str, owner: str) -> None:
        """Give the lease on a step back; nothing happens where `owner` does not have it."""
        ...

    def clear_scratch(self, key: str) -> None:
        """Drop the step's scratch folder, once it is committed. Another attempt that still runs in it then fails.

        A store that is away costs a warning: the step is done.
        """
        ...

    def manifests(self, stage: str | None = None) -> Iterator[Manifest]:
        """All committed steps, or those of one stage, in order of stage and key."""
        ...

    def keys(self, stage: str) -> set[str]:
        """The keys of a stage's committed steps; no manifest is read."""
        ...

    def find(self, prefix: str) -> list[tuple[str, str]]:
        """The (stage, key) of each committed step whose key begins so. Raises InputError below 4 hex characters."""
        ...

    def remove(self, stage: str, key: str) -> bool:
        """Drop the step's manifest, so that it runs again; its blobs stay. Says whether there was one."""
        ...

    def blobs(self) -> Iterator[tuple[str, int, float]]:
        """Every blob: (sha256, bytes, age). Its age is the seconds since a commit stored it, or found it there and
        refreshed it, by the store's own clock."""
        ...

    def remove_blob(self, sha256: str, grace: float) -> bool:
        """Drop a blob if it is, now, at least `grace` seconds old: says whether it was. For `collect` alone."""
        ...

    def sweep(self, grace: float, done: Collection[str], dry: bool) -> Iterator[tuple[str, int]]:
        """Drop what crashes left and nobody has touched for `grace` seconds; (name, bytes) of each.

        That is unfinished files and uploads, leases, and scratch of steps whose key is in `done`. dry: only name them.
        """
        ...

    def runs(self) -> list[str]:
        """The names of all runs, sorted."""
        ...

    def run_files(self, run: str) -> list[str]:
        """The names of a run's files, sorted."""
        ...

    def write_run(self, run: str, name: str, data: bytes) -> None:
        """Write a run's file, atomically, in place of one that is there."""
        ...

    def read_run(self, run: str, name: str) -> bytes | None:
        """A run's file; None if there is none."""
        ...

    def append_run(self, run: str, name: str, lines: str) -> None:
        """Add whole lines to a run's file; those of several processes do not mix. For S3 a write each: give many."""
        ...

    def age_run(self, run: str, name: str) -> float | None:
        """Seconds since a run's file was written last, by the store's own clock; None if there is none."""
        ...

    def place(self, name: str) -> str:
        """Where `name`, as in `runs/quickstart-1234`, lies in the store: a path or an address, for people."""
        ...


def open_store(url: str | Path) -> Store:
    """The store at `url`: a folder, or s3://bucket/prefix?endpoint=…&region=…&storage_class=… Touches nothing: `probe`
    does. Raises InputError for a URL of another kind."""
    from pipeline.store.local import LocalStore
    from pipeline.store.s3_address import parse, without_user

    text = str(url)
    if text.startswith("s3:"):
        from pipeline.store.s3 import S3Store

        return S3Store(parse(text))
    if re.match("(?i)[a-z0-9+.-]+:/", text) or not text.strip():
        raise InputError(
            f"store {without_user(text)!r}: not a folder, and not in S3; give a path such as ./store or "
            "/data/brewline, or s3://bucket/prefix"
        )
    return LocalStore(Path(text).expanduser().absolute())
