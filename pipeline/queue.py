"""The steps of a run that do not run yet: those that wait for others or a while, and those that may start."""

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from itertools import count

from pipeline.step import Step
from stages.stage import STAGES


class Queue:
    """Each step is in one place at most; the caller takes it out by starting it."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = steps
        self._ready: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._later: list[tuple[float, int, Step]] = []
        self._number = count()
        self._waiting: dict[str, set[str]] = {}
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)

    @property
    def waiting(self) -> set[str]:
        """The keys of the steps that wait for others."""
        return set(self._waiting)

    @property
    def delayed(self) -> int:
        """How many steps wait a while."""
        return len(self._later)

    def __contains__(self, step: Step) -> bool:
        return (
            step.key in self._waiting
            or step in self._ready[step.stage]
            or any(step is other for _, _, other in self._later)
        )

    def add(self, step: Step, after: Collection[str] = ()) -> None:
        """It may start once those of its inputs that are in `after` are done."""
        inputs = {ref.key for ref in step.inputs.values() if ref.key in after}
        if not inputs:
            self._ready[step.stage].append(step)
            return
        self._waiting[step.key] = inputs
        for key in inputs:
            self._dependents[key].append(step.key)

    def add_later(self, step: Step, seconds: float) -> None:
        """It may start after a while."""
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._number), step))

    def done(self, step: Step) -> None:
        """Let those go that waited for it alone."""
        for dependent in self._dependents.pop(step.key, ()):
            self._waiting[dependent].discard(step.key)
            if not self._waiting[dependent]:
                del self._waiting[dependent]
                self.add(self._steps[dependent])

    def by_stage(self) -> Iterator[tuple[str, deque[Step]]]:
        """The steps that may start now, to be taken from the left; those of later stages first, as they free most."""
        while self._later and self._later[0][0] < time.monotonic():
            self.add(heapq.heappop(self._later)[2])
        yield from ((stage, self._ready[stage]) for stage in reversed(STAGES) if self._ready[stage])
