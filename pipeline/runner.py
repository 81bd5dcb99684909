"""Runs a plan on Ray: ready steps, retries, blocked dependents, progress, resume. All policy about steps is here.

The store is the only memory. What it has is not run; what a worker commits is there for good; a driver that dies
loses nothing but the lists below, which the next one makes again from the plan and the store.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

from pipeline.execute import committed
from pipeline.experiment import Runtimes
from pipeline.losses import ATTEMPTS, Losses
from pipeline.needs import needed_steps
from pipeline.outcome import Outcome, Watcher
from pipeline.plan import Plan
from pipeline.queue import Queue
from pipeline.resources import (
    Machine,
    check_resources,
    has_gpus,
    infeasible,
    machines,
    may_grow,
    places,
    ray_options,
    wants,
    workers_of,
)
from pipeline.step import Step
from pipeline.store import Manifest, Store, StoreError
from pipeline.store.lease import this_process
from pipeline.work import Away, Board, Failure, Found, Gone, Held, Progress, place_of_log, work
from stages.config import InputError
from stages.stage import STAGES

SPARE, GROWING = 16, 1000
"""Steps of a stage given to Ray besides twice as many as can run: no slot is ever idle, and Ray's queue stays short; an
autoscaler must see how much is wanted."""
POLL_SECONDS = 0.25
MACHINES_SECONDS = 5.0
"""How often it is looked which machines there are."""
WAITING_SECONDS = 30.0
"""A run in which nothing happens for so long says what it waits for."""
HELD_FIRST_SECONDS, HELD_SECONDS = 0.25, 5.0
"""How often a step that another run has is looked at: from the one to the other."""
AWAY_SECONDS = 30.0
"""How long a step waits that gave up on the store, which did not answer for minutes. It is tried until somebody ends
the run: all that is done is in the store."""
RELEASE_SECONDS = 5.0
"""How long an interrupted run tries to give back its leases, which end by themselves."""
BLIND_SECONDS = 100.0
"""How long a machine may not see what others have stored: network file systems remember for a minute what is not."""


class Runner:
    """One run of a plan on the Ray cluster that this process is connected to."""

    def __init__(
        self, plan: Plan, store: Store, runtimes: Runtimes, cluster: Sequence[Machine], watcher: Watcher
    ) -> None:
        self._plan, self._store, self._runtimes, self._watcher = plan, store, runtimes, watcher
        self._machines, self._growing = cluster, False
        # Asked once: a cluster that loses its last GPU waits for another, and does not go on with CPUs.
        gpus = has_gpus(cluster)
        self._wanted = {stage: wants(runtimes.of(stage), stage, gpus) for stage in STAGES}
        self._owner = this_process()
        self._damaged: set[str] = set()
        self._task: Any = None
        self._board: Any = None
        self._here: Any = None
        self._outcome = Outcome()
        self._running: dict[Any, Step] = {}
        self._in_flight: Counter[str] = Counter()
        self._queue = Queue(plan.steps)
        self._losses = Losses()
        self._held: Counter[str] = Counter()
        self._blind: defaultdict[str, float] = defaultdict(float)
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._last: dict[str, Progress] = {}
        self._event = self._looked = time.monotonic()

    def run(self, cached: set[str], damaged: Collection[str] = ()) -> Outcome:
        """Run what is not in `cached`, and return when nothing more can run. KeyboardInterrupt ends it cleanly.

        damaged: keys of steps that the store has, and that are to run all the same.
        """
        import ray

        self._outcome.cached = set(cached)
        self._damaged = set(damaged)
        needed = needed_steps(self._plan, cached)
        self._growing = may_grow()
        check_resources([self._plan.steps[key] for key in needed], self._runtimes, self._machines, self._growing)
        for key in (key for key in self._plan.steps if key in needed):
            self._queue.add(self._plan.steps[key], needed)
        self._task = ray.remote(max_retries=0)(work)
        self._here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        )
        board: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Board)
        self._board = board.options(scheduling_strategy=self._here).remote()
        try:
            self._start_ready()
            shown = time.monotonic()
            while self._running or self._queue.delayed:
                self._settle_done()
                self._start_ready()
                if time.monotonic() - shown > POLL_SECONDS:
                    shown = time.monotonic()
                    self._watch()
            self._watch()
        finally:
            for reference in self._running:
                ray.cancel(reference, force=True)
            if self._running:
                thread = Thread(target=self._release_all, daemon=True)
                thread.start()
                thread.join(RELEASE_SECONDS)
        self._outcome.blocked = self._queue.waiting
        return self._outcome

    def _release_all(self) -> None:
        """Leases of what runs end by themselves, if the store is away."""
        with suppress(StoreError):
            for step in list(self._running.values()):
                self._store.release(step.key, self._owner)

    def _start_ready(self) -> None:
        """Give Ray what may start now."""
        for stage, ready in self._queue.by_stage():
            runtime = self._runtimes.of(stage)
            # A step of several workers is led by a task that takes nothing, where the driver is, as that machine is not
            # rented on the spot market: only as many as can work, and one more to ask an autoscaler for.
            grouped, wanted = workers_of(runtime, stage) > 1, self._wanted[stage]
            most = places(wanted, runtime, stage, self._machines) * (1 if grouped else 2)
            most += self._growing if grouped else GROWING if self._growing else SPARE
            while ready and self._in_flight[stage] < most:
                options = ray_options({}) | {"scheduling_strategy": self._here} if grouped else ray_options(wanted)
                self._start(ready.popleft(), options)

    def _start(self, step: Step, options: Mapping[str, Any]) -> None:
        again, wanted = step.key in self._damaged, self._wanted[step.stage]
        arguments = (step, self._store.url, self._runtimes.of(step.stage), wanted, self._board, self._owner, again)
        self._running[self._task.options(**options).remote(*arguments)] = step
        self._in_flight[step.stage] += 1
        self._started[step.key] = time.monotonic()

    def _settle_done(self) -> None:
        """Wait a little for tasks that end, and take in all that have."""
        import ray

        if not self._running:
            time.sleep(POLL_SECONDS)
            return
        running = list(self._running)
        done, _ = ray.wait(running, timeout=POLL_SECONDS, fetch_local=False)
        if done:
            done, _ = ray.wait(running, num_returns=len(running), timeout=0, fetch_local=False)
        for reference in done:
            step = self._running.pop(reference)
            self._in_flight[step.stage] -= 1
            self._settle(step, self._last.pop(step.key, None), reference)
            self._event = time.monotonic()

    def _settle(self, step: Step, report: Progress | None, reference: Any) -> None:
        """Take in how a task ended whose last report is given."""
        import ray

        try:
            result = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._fail(step, Failure(f"it could not start on a worker: {error}", place_of_log(step, self._store)))
            return
        except ray.exceptions.RayError as error:
            self._repeat(step, *self._losses.explained(step.key, report, error))
            return
        if isinstance(result, Found):
            self._outcome.cached.add(step.key)
            self._done(step, result.manifest, ours=False)
        elif isinstance(result, Manifest):
            self._outcome.ran.add(step.key)
            self._done(step, result, ours=True)
        elif isinstance(result, Failure):
            self._fail(step, result)
        else:
            self._watcher.paused(step)
            self._wait(step, result)

    def _done(self, step: Step, manifest: Manifest, ours: bool) -> None:
        self._damaged.discard(step.key)
        self._ended[step.key] = time.monotonic()
        self._watcher.ended(step, manifest, ours)
        self._queue.done(step)

    def _wait(self, step: Step, result: Gone | Held | Away) -> None:
        """A step could not be done yet."""
        if isinstance(result, Held):
            pause = HELD_FIRST_SECONDS * 2 ** min(self._held[step.key], 9)
            self._held[step.key] += 1
            self._queue.add_later(step, min(result.seconds, HELD_SECONDS, pause))
            return
        if isinstance(result, Away):
            self._watcher.waiting(f"{step.label}: {result.why}")
            self._queue.add_later(step, AWAY_SECONDS)
            return
        maker = self._plan.steps[result.ref.key]
        if self._ended.get(maker.key, 0.0) > self._started[step.key]:
            self._queue.add(step)  # what it found is of before the maker ran again
        elif result.absent and self._is_there(maker):
            self._not_seen(step, maker, result.host)
        else:
            self._queue.add(step, {maker.key})
            self._make_again(maker, result.why)

    def _is_there(self, step: Step) -> bool:
        """Whether this machine sees a step's output; where the store is away that is not known, and will be tried."""
        try:
            return committed(self._store, step) is not None
        except StoreError as error:
            if error.away:
                return True
            raise

    def _not_seen(self, step: Step, maker: Step, host: str) -> None:
        """A machine does not see what is in the store: not yet, as network file systems do, or never."""
        self._blind[step.key] += HELD_SECONDS
        what = f"{host} does not see the output of {maker.label}, which is in {self._store.url}"
        if self._blind[step.key] < BLIND_SECONDS:
            self._watcher.waiting(what)
            self._queue.add_later(step, HELD_SECONDS)
            return
        advice = "a folder must be the same one on all machines, by a mount; or give a store in S3"
        self._fail(step, Failure(f"{what}: {advice}", place_of_log(step, self._store), bad_input=True))

    def _make_again(self, step: Step, why: str) -> None:
        """A committed step whose output is gone or damaged runs again, unless it is about to anyway."""
        self._outcome.cached.discard(step.key)
        self._outcome.ran.discard(step.key)
        self._damaged.add(step.key)
        if not (step in self._queue or step in self._running.values()):
            self._repeat(step, why, ATTEMPTS)

    def _repeat(self, step: Step, why: str, attempts: int) -> None:
        if step.key in self._outcome.failed:
            return
        if self._losses.too_many(step.key, attempts):
            what = f"{why}, {attempts} times without getting further; was memory short?"
            self._fail(step, Failure(what, place_of_log(step, self._store)))
            return
        self._watcher.repeated(step, why)
        self._queue.add(step)

    def _fail(self, step: Step, failure: Failure) -> None:
        self._outcome.failed[step.key] = failure
        self._watcher.failed(step, failure)

    def _watch(self) -> None:
        """Show what the steps reported; where nothing happens, say what is waited for."""
        import ray

        if time.monotonic() - self._looked > MACHINES_SECONDS:
            self._looked, self._machines = time.monotonic(), machines()
        reports = ray.get(self._board.read.remote())
        self._watcher.progressed(reports)
        running = {step.key for step in self._running.values()}
        self._last |= {key: report for key, report in reports.items() if key in running}
        if self._last:
            self._event = time.monotonic()
        elif time.monotonic() - self._event > WAITING_SECONDS:
            self._event = time.monotonic()
            ours = self._wanted.values()
            if self._growing and (lacking := [asked for asked in infeasible() if asked in ours]):
                raise InputError(f"no machine that the autoscaler may start has {lacking[0]}; ask for less in runtime")
            self._watcher.waiting(self._why())

    def _why(self) -> str:
        """What is waited for while no step works."""
        if not self._running:
            return f"another run has the {self._queue.delayed} steps that could run; theirs count when they are done"
        try:
            check_resources(self._running.values(), self._runtimes, machines())
        except InputError as error:
            return f"no machine for {len(self._running)} steps: {error}"
        return f"{len(self._running)} steps wait for a free machine"
