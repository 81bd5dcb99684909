"""Leases on steps, held while they run, so that two runs of one experiment share the work instead of doing it twice.

Nothing but work is lost where a lease fails: whoever commits first counts, with or without one.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Protocol
from uuid import uuid4

from pipeline.store.manifest import StoreError
from pipeline.store.names import LEASE_SECONDS


class Leases(Protocol):
    """The part of a store that this needs."""

    def acquire(self, key: str, owner: str) -> float:
        """Take or renew; 0, or the seconds that another may still have it."""
        ...

    def release(self, key: str, owner: str) -> None:
        """Give it back."""
        ...


@cache
def this_process() -> str:
    """A name for this process, as an owner of leases, that no other process has or had."""
    return f"{_place()} {os.getpid()} {_started(os.getpid())} {uuid4().hex}"


def is_dead(owner: str) -> bool:
    """Whether `owner` was a process of this machine that runs no more: its leases need not be waited for.

    One whose name says less than this, of an older brewline, is not taken for dead: its leases end by their time.
    """
    place, pid, started, _ = owner.rsplit(" ", 3) if owner.count(" ") >= 3 else ("", "0", "", "")
    return place == _place() and _started(int(pid)) != started


@contextmanager
def leased(store: Leases, key: str, owner: str) -> Iterator[float]:
    """Hold the lease on a step for the length of the block. Gives 0, or the seconds that another may still have it.

    In that case it is not held. It is renewed from a thread, so a stage may take as long as it likes.
    """
    wait = store.acquire(key, owner)
    if wait:
        yield wait
        return
    over = Event()
    thread = Thread(target=_renew, args=(store, key, owner, over), daemon=True)
    thread.start()
    try:
        yield 0.0
    finally:
        over.set()
        thread.join()
        with suppress(StoreError):  # it ends by itself
            store.release(key, owner)


def _renew(store: Leases, key: str, owner: str, over: Event) -> None:
    while not over.wait(LEASE_SECONDS / 3):
        with suppress(StoreError):  # tried again at the next turn; the step goes on without
            store.acquire(key, owner)


@cache
def _place() -> str:
    """This machine since it was started, and its table of processes: containers of one machine have several, and
    machines that are made alike have one name. Where the kernel does not say when it started, name and table alone."""
    words = [socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return " ".join(words)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if it does not run. A pid that is given anew differs in it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
