"""What runs in a Ray task: one step under its lease, and its reports to the driver.

All that the driver learns comes back as data, since not every exception can be pickled. No Ray object crosses from
one step to another: a task gets a step as data and reads its inputs from the store.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pipeline.draining import node_draining
from pipeline.execute import LOG, InputGone, Place, committed, execute
from pipeline.resources import workers_of
from pipeline.step import Ref, Step
from pipeline.store import Manifest, Store, StoreError, open_store
from pipeline.store.lease import leased
from pipeline.train_group import GroupFailed, run_group
from stages.config import InputError
from stages.stage import Report, Runtime

REPORT_SECONDS = 0.25


class Progress(NamedTuple):
    """A running step's report.  node: Ray's name of the machine it runs on.  seconds: since this attempt began."""

    done: int
    total: int
    figures: dict[str, float]
    host: str
    node: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """Why a step failed. bad_input: the user can mend it, as with a corrupt image."""

    why: str
    log: str
    bad_input: bool = False


@dataclass(frozen=True)
class Gone:
    """An input is not there, as seen from `host`: the step that makes it must run again first."""

    ref: Ref
    why: str
    absent: bool
    host: str


@dataclass(frozen=True)
class Found:
    """Another run has done the step meanwhile."""

    manifest: Manifest


@dataclass(frozen=True)
class Held:
    """Another run has the step's lease, for so many seconds at most unless it is renewed."""

    seconds: float


@dataclass(frozen=True)
class Away:
    """The store did not answer for so long that the step gave up; nothing is wrong with the step."""

    why: str


class Board:
    """The Ray actor to which running steps report; the driver reads it."""

    def __init__(self) -> None:
        self._reports: dict[str, Progress] = {}

    def write(self, key: str, progress: Progress) -> None:
        """A step's report, in place of its last one."""
        self._reports[key] = progress

    def read(self) -> dict[str, Progress]:
        """The reports since the last reading."""
        reports, self._reports = self._reports, {}
        return reports


def work(
    step: Step, url: str, runtime: Runtime, wanted: Mapping[str, float], board: Any, owner: str, again: bool
) -> Manifest | Found | Gone | Held | Away | Failure:
    """One step, from the store at `url` and into it. wanted: what it, or each of its workers, takes of a machine.
    owner: of its lease.  again: though it seems to be done."""
    store = open_store(url)
    try:
        with leased(store, step.key, owner) as wait:
            done = None if again else committed(store, step)
            if done is not None or wait:
                return Held(wait) if done is None else Found(done)
            if workers_of(runtime, step.stage) > 1:
                return run_group(step, url, runtime, wanted, partial(_reporter, step.key, board), again)
            report = _reporter(step.key, board)
            return execute(step, store, runtime, report, again, Place(hurry=node_draining()), looked=True)
    except InputGone as gone:
        return Gone(gone.ref, gone.why, gone.absent, socket.gethostname())
    except Exception as error:  # noqa: BLE001
        if isinstance(error, StoreError) and error.away:
            return Away(str(error))
        name = "" if isinstance(error, (InputError, StoreError, GroupFailed)) else f"{type(error).__name__}: "
        return Failure(f"{name}{error}", _brought_log(step, store), isinstance(error, InputError))


def place_of_log(step: Step, store: Store) -> str:
    """Where a step's log is, if its machine could bring it there."""
    return store.place(f"scratch/{step.key}/{LOG}")


def _brought_log(step: Step, store: Store) -> str:
    try:
        return store.push_scratch(step.key, LOG)
    except StoreError as error:
        return f"none was kept ({error})"


def _reporter(key: str, board: Any) -> Report:
    """What reports to the board; it begins at once. Workers of a group call it when they are there: a step whose
    workers wait for machines does not run."""
    import ray

    host, node = socket.gethostname(), ray.get_runtime_context().get_node_id()
    began, last = time.monotonic(), 0.0

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORT_SECONDS:
            last = now
            board.write.remote(key, Progress(done, total, figures, host, node, now - began))

    report(0, 1, {})
    return report
