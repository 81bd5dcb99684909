"""Runs a plan on Ray: ready steps, retries, blocked dependents, progress, resume. All policy about steps is here.

The store is the only memory. What it has is not run; what a worker commits is there for good; a driver that dies
loses nothing but the list below, which the next one makes again from the plan and the store. No Ray object crosses
from one step to another: workers get a step as data and read its inputs from the store.
"""

import socket
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from pipeline.execute import LOG, InputGone, committed, execute
from pipeline.experiment import Runtimes
from pipeline.plan import Plan
from pipeline.resources import check_resources, ray_options
from pipeline.step import Ref, Step
from pipeline.store import Manifest, Store, StoreError, open_store
from stages.config import InputError
from stages.stage import Report, Runtime

ATTEMPTS = 5
"""Times a step is started whose worker dies, or whose inputs turn out damaged, before it counts as failed."""
POLL_SECONDS = 0.25


class Progress(NamedTuple):
    """A running step's report."""

    done: int
    total: int
    figures: dict[str, float]
    host: str


@dataclass(frozen=True)
class Failure:
    """Why a step failed. bad_input: the user can mend it, as with a corrupt image."""

    why: str
    log: str
    bad_input: bool = False


@dataclass
class Outcome:
    """How a run ended: each step's key under what became of it."""

    cached: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)

    def counts(self, plan: Plan) -> dict[str, int]:
        """Steps by what became of them."""
        groups = {name: len(getattr(self, name)) for name in ("cached", "ran", "failed", "blocked")}
        return {"total": len(plan.steps), **groups}


class Watcher(Protocol):
    """Is told what happens, to show it and to write it down."""

    def progressed(self, reports: Mapping[str, Progress]) -> None:
        """Running steps' new reports, by key; the first is of 0 done. Called a few times a second."""

    def ended(self, step: Step, manifest: Manifest) -> None:
        """A step is committed."""

    def repeated(self, step: Step, why: str) -> None:
        """A step must run (again) that had run, or that had begun."""

    def failed(self, step: Step, failure: Failure) -> None:
        """A step will not be tried again."""


def cached_steps(plan: Plan, store: Store) -> set[str]:
    """The keys of the plan's steps that are done and whole."""
    return {key for key, step in plan.steps.items() if committed(store, step) is not None}


def needed_steps(plan: Plan, cached: set[str]) -> set[str]:
    """The steps to run: the summaries that are not there, and whatever a step to run needs that is not there."""
    needed = {ref.key for ref in plan.summaries.values()} - cached
    for step in reversed(plan.steps.values()):
        if step.key in needed:
            needed |= {ref.key for ref in step.inputs.values()} - cached
    return needed


class Runner:
    """One run of a plan on the Ray cluster that this process is connected to."""

    def __init__(
        self, plan: Plan, store: Store, runtimes: Runtimes, resources: Mapping[str, float], watcher: Watcher
    ) -> None:
        self._plan, self._store, self._runtimes, self._watcher = plan, store, runtimes, watcher
        self._resources = resources
        self._damaged: set[str] = set()
        self._task: Any = None
        self._attempts: Counter[str] = Counter()
        self._outcome = Outcome()
        self._running: dict[Any, Step] = {}
        self._ready: deque[Step] = deque()
        self._waiting: dict[str, set[str]] = {}
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)

    def run(self, cached: set[str], damaged: Collection[str] = ()) -> Outcome:
        """Run what is not in `cached`, and return when nothing more can run. KeyboardInterrupt ends it cleanly.

        damaged: keys of steps that the store has, and that are to run all the same.
        """
        import ray

        self._outcome.cached = set(cached)
        self._damaged = set(damaged)
        needed = needed_steps(self._plan, cached)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_resources([self._plan.steps[key] for key in needed], self._runtimes, self._resources, machines)
        for key in (key for key in self._plan.steps if key in needed):
            self._wait_for(self._plan.steps[key], needed)
        self._task = ray.remote(max_retries=0)(_work)
        board: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Board).remote()
        try:
            self._start_ready(board)
            while self._running:
                done, _ = ray.wait(list(self._running), timeout=POLL_SECONDS)
                for reference in done:
                    self._settle(self._running.pop(reference), reference)
                self._start_ready(board)
                self._watcher.progressed(ray.get(board.read.remote()))
        finally:
            for reference in self._running:
                ray.cancel(reference, force=True)
        self._outcome.blocked = set(self._waiting)
        return self._outcome

    def _wait_for(self, step: Step, keys: Collection[str]) -> None:
        """Start the step once those of its inputs that are in `keys` are committed."""
        inputs = {ref.key for ref in step.inputs.values() if ref.key in keys}
        if not inputs:
            self._ready.append(step)
            return
        self._waiting[step.key] = inputs
        for key in inputs:
            self._dependents[key].append(step.key)

    def _start_ready(self, board: Any) -> None:
        while self._ready:
            step = self._ready.popleft()
            self._attempts[step.key] += 1
            runtime = self._runtimes.of(step.stage)
            options: dict[str, Any] = ray_options(runtime, step.stage, self._resources)
            task = self._task.options(**options).remote(
                step, self._store.url, runtime, board, step.key in self._damaged
            )
            self._running[task] = step

    def _settle(self, step: Step, reference: Any) -> None:
        """Take in how a task ended."""
        import ray

        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._fail(step, Failure(f"it could not start on a worker: {error}", self._log(step)))
            return
        except ray.exceptions.RayError as error:
            self._repeat(step, f"its worker died ({type(error).__name__})")
            return
        if isinstance(result, Manifest):
            self._outcome.ran.add(step.key)
            self._watcher.ended(step, result)
            for dependent in self._dependents.pop(step.key, ()):
                self._waiting[dependent].discard(step.key)
                if not self._waiting[dependent]:
                    del self._waiting[dependent]
                    self._ready.append(self._plan.steps[dependent])
        elif isinstance(result, _Gone):
            self._wait_for(step, {result.ref.key})
            self._make_again(self._plan.steps[result.ref.key], result.why)
        else:
            self._fail(step, result)

    def _make_again(self, step: Step, why: str) -> None:
        """A committed step whose output is gone or damaged runs again, unless it is about to anyway."""
        self._outcome.cached.discard(step.key)
        self._outcome.ran.discard(step.key)
        self._damaged.add(step.key)
        if not (step.key in self._waiting or step in self._ready or step in self._running.values()):
            self._repeat(step, why)

    def _repeat(self, step: Step, why: str) -> None:
        if step.key in self._outcome.failed:
            return
        if self._attempts[step.key] >= ATTEMPTS:
            self._fail(step, Failure(f"{why}, {ATTEMPTS} times; was memory short?", self._log(step)))
            return
        self._watcher.repeated(step, why)
        self._ready.append(step)

    def _log(self, step: Step) -> str:
        return _log_of(step, self._store)

    def _fail(self, step: Step, failure: Failure) -> None:
        self._outcome.failed[step.key] = failure
        self._watcher.failed(step, failure)


@dataclass(frozen=True)
class _Gone:
    """What a worker returns when an input is not there."""

    ref: Ref
    why: str


class _Board:
    """The Ray actor to which running steps report; the driver reads it."""

    def __init__(self) -> None:
        self._reports: dict[str, Progress] = {}

    def write(self, key: str, progress: Progress) -> None:
        self._reports[key] = progress

    def read(self) -> dict[str, Progress]:
        """The reports since the last reading."""
        reports, self._reports = self._reports, {}
        return reports


def _work(step: Step, url: str, runtime: Runtime, board: Any, again: bool) -> Manifest | _Gone | Failure:
    """The Ray task: one step. What went wrong is returned as data, since not every exception can be pickled."""
    store = open_store(url)
    report = _reporter(step.key, board)
    try:
        report(0, 1, {})
        return execute(step, store, runtime, report, again)
    except InputGone as gone:
        return _Gone(gone.ref, gone.why)
    except Exception as error:  # noqa: BLE001
        log = _log_of(step, store)
        name = "" if isinstance(error, (InputError, StoreError)) else f"{type(error).__name__}: "
        return Failure(f"{name}{error}", log, isinstance(error, InputError))


def _log_of(step: Step, store: Store) -> str:
    try:
        return str(store.scratch(step.key) / LOG)
    except StoreError:
        return "none was written"


def _reporter(key: str, board: Any) -> Report:
    host, last = socket.gethostname(), 0.0

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        nonlocal last
        if time.monotonic() - last > POLL_SECONDS:
            last = time.monotonic()
            board.write.remote(key, Progress(done, total, figures, host))

    return report
