"""The schedule of a plan on a cluster, before it exists: steps in the order in which they become ready, on nodes that
start and stop. (The runner lets those of later stages pass.)

A step is ready as soon as its inputs are committed; it starts where there is room, and one that finds none lets smaller
ones pass. An autoscaler starts nodes for those that wait, and stops idle ones.
Nothing is drawn: the same plan, rates and prices give the same schedule.
"""

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from pipeline.cost.prices import Node, Prices
from pipeline.cost.room import Demand, Room, places_on


class Job(NamedTuple):
    """A step to run. needs: the places of its inputs in the list of jobs.  seconds: by kind of node."""

    stage: str
    needs: Sequence[int]
    demand: Demand
    seconds: Mapping[str, float]


@dataclass
class Used:
    """What became of one node. start, stop: seconds from the beginning; paid from one to the other.

    shares: seconds that stages had of it, each times the largest part of a resource that it took.
    """

    kind: str
    start: float
    stop: float = 0
    shares: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


class Schedule(NamedTuple):
    """How the jobs ran.

    seconds: from the beginning to the end of the last job.  ran_on: the kind of node of each job; the slowest of
    its workers'.
    """

    seconds: float
    nodes: list[Used]
    ran_on: list[str]


@dataclass
class _Up:
    """A node that was started. promised: what is left of it for steps that wait until it has joined."""

    number: int
    node: Node
    room: Room
    promised: Room
    used: Used
    permanent: bool
    steps: int = 0
    idle_since: float = 0

    @property
    def order(self) -> tuple[bool, int]:
        """Steps look for room in this order: GPUs last, so that they are kept for those that need them."""
        return bool(self.node.resources.get("GPU")), self.number


class _Open:
    """The nodes that may have room, first by order; each once."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int]] = []
        self._known: set[tuple[bool, int]] = set()

    def add(self, order: tuple[bool, int]) -> None:
        if order not in self._known:
            self._known.add(order)
            heapq.heappush(self._heap, order)

    def first(self) -> tuple[bool, int] | None:
        return self._heap[0] if self._heap else None

    def drop_first(self) -> None:
        self._known.remove(heapq.heappop(self._heap))


Places = list[tuple[_Up, list[int]]]
"""Where the workers of a step are: the node, and which of its GPUs."""


def lengthened(seconds: float, interval: float, restart: float, per_hour: float) -> float:
    """Expected seconds of a step on nodes that are taken away `per_hour` times an hour, to first order.

    Each time half a checkpoint interval (at most the step) is lost, and `restart` seconds pass before it goes on:
    seconds · (1 + per_hour / 3600 · (min(interval, seconds) / 2 + restart)).
    """
    return seconds * (1 + per_hour / 3600 * (min(interval, seconds) / 2 + restart))


def critical_path(jobs: Sequence[Job]) -> float:
    """Seconds of the longest chain of jobs, each on its quickest node; inputs stand before their users."""
    ends: list[float] = []
    for job in jobs:
        ends.append(min(job.seconds.values()) + max((ends[need] for need in job.needs), default=0.0))
    return max(ends, default=0.0)


def simulate(jobs: Sequence[Job], prices: Prices) -> Schedule:
    """Run the jobs, of which inputs stand before their users. Each must be possible (see `check_possible`)."""
    return _Simulation(jobs, prices).run()


class _Simulation:
    """A clock, what happens next, and for each demand the jobs that wait for room and the nodes that may have it."""

    def __init__(self, jobs: Sequence[Job], prices: Prices) -> None:
        self._jobs, self._prices = jobs, prices
        self._now, self._number = 0.0, count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        demands = dict.fromkeys(job.demand for job in jobs)
        self._waiting: dict[Demand, deque[tuple[int, int]]] = {demand: deque() for demand in demands}
        self._open = {demand: _Open() for demand in demands}
        self._kinds = {
            demand: [name for name, node in prices.nodes.items() if places_on(node, demand)] for demand in demands
        }
        self._nodes: list[_Up] = []
        self._starting: dict[int, _Up] = {}
        self._by_kind: Counter[str] = Counter()
        self._missing = [len(job.needs) for job in jobs]
        self._users: list[list[int]] = [[] for _ in jobs]
        self._new: dict[int, Demand] = {}
        self._left = len(jobs)
        self._ran_on = [""] * len(jobs)

    def run(self) -> Schedule:
        """To the end of the last step, and on until the autoscaled nodes have stopped."""
        for number, job in enumerate(self._jobs):
            for need in job.needs:
                self._users[need].append(number)
        for name, node in self._prices.nodes.items():
            for _ in range(node.least):
                self._start(name, permanent=True)
        for number, missing in enumerate(self._missing):
            if not missing:
                self._ready(number)
        end = 0.0
        while self._left:
            self._place_waiting()
            if not self._events:
                raise RuntimeError(f"{self._left} steps were never placed; this is a fault of brewline")
            end = self._tick()
        while self._events:
            self._tick()
        for up in self._nodes:
            if up.permanent:
                up.used.stop = end
        return Schedule(end, [up.used for up in self._nodes], self._ran_on)

    def _tick(self) -> float:
        """Let everything happen that happens next at one time; gives the time."""
        self._now = self._events[0][0]
        together = []
        while self._events and self._events[0][0] <= self._now:
            together.append(heapq.heappop(self._events))
        for _, _, what, arguments in together:
            what(*arguments)
        return self._now

    def _after(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._number), what, arguments))

    def _ready(self, number: int) -> None:
        self._new[number] = demand = self._jobs[number].demand
        self._waiting[demand].append((next(self._number), number))

    def _place_waiting(self) -> None:
        """Begin what has room, in the order in which it became ready; then have nodes started for what has none."""
        heads = [(queue[0][0], place, queue) for place, queue in enumerate(self._waiting.values()) if queue]
        heapq.heapify(heads)
        while heads:
            _, place, queue = heapq.heappop(heads)
            number = queue[0][1]
            if (found := self._find(self._jobs[number].demand)) is not None:
                queue.popleft()
                self._new.pop(number, None)
                self._begin(number, found)
                if queue:
                    heapq.heappush(heads, (queue[0][0], place, queue))
        exhausted: set[Demand] = set()
        for demand in self._new.values():
            if demand not in exhausted and not all(self._promise(demand) for _ in range(demand.workers)):
                exhausted.add(demand)
        self._new.clear()

    def _find(self, demand: Demand) -> Places | None:
        """Room for all workers of a step, taken; None where there is not enough."""
        nodes, places = self._open[demand], Places()
        while len(places) < demand.workers and (order := nodes.first()):
            up = self._nodes[order[1]]
            gpus = up.room.take(demand)
            if gpus is None:
                nodes.drop_first()
            else:
                places.append((up, gpus))
        if len(places) == demand.workers:
            return places
        for up, gpus in places:
            up.room.give_back(demand, gpus)
            nodes.add(up.order)
        return None

    def _begin(self, number: int, places: Places) -> None:
        job = self._jobs[number]
        self._ran_on[number] = slowest = max((up.used.kind for up, _ in places), key=job.seconds.__getitem__)
        seconds = job.seconds[slowest]
        for up, _ in places:
            up.steps += 1
            up.used.shares[job.stage] += seconds * job.demand.share_of(up.node)
        self._after(seconds, self._end, number, places)

    def _end(self, number: int, places: Places) -> None:
        self._left -= 1
        for up, gpus in places:
            up.room.give_back(self._jobs[number].demand, gpus)
            up.steps -= 1
            self._offer(up)
        for user in self._users[number]:
            self._missing[user] -= 1
            if not self._missing[user]:
                self._ready(user)

    def _offer(self, up: _Up) -> None:
        """Let steps look at a node that has new room; it stops if it stays idle."""
        for nodes in self._open.values():
            nodes.add(up.order)
        if not up.steps and not up.permanent:
            up.idle_since = self._now
            self._after(self._prices.idle_minutes * 60, self._stop, up, self._now)

    def _promise(self, demand: Demand) -> bool:
        """A place on a node that starts; of those that could be started, the cheapest. False where there is none."""
        if any(up.promised.take(demand) is not None for up in self._starting.values()):
            return True
        startable = [name for name in self._kinds[demand] if self._by_kind[name] < self._prices.nodes[name].most]
        if not startable:
            return False
        cheapest = min(startable, key=lambda name: self._prices.nodes[name].price_per_hour)
        return self._start(cheapest, permanent=False).promised.take(demand) is not None

    def _start(self, name: str, permanent: bool) -> _Up:
        node = self._prices.nodes[name]
        up = _Up(len(self._nodes), node, Room(node), Room(node), Used(name, self._now), permanent)
        self._nodes.append(up)
        self._starting[up.number] = up
        self._by_kind[name] += 1
        self._after(node.start_minutes * 60, self._join, up)
        return up

    def _join(self, up: _Up) -> None:
        del self._starting[up.number]
        self._offer(up)

    def _stop(self, up: _Up, idle_since: float) -> None:
        """Stop a node that has been idle since then, unless a step waits that it could take a part of."""
        if up.steps or up.idle_since != idle_since:
            return
        if any(queue and up.used.kind in self._kinds[demand] for demand, queue in self._waiting.items()):
            self._after(max(self._prices.idle_minutes, 1) * 60, self._stop, up, idle_since)
            return
        up.room.close()
        up.used.stop = self._now
        self._by_kind[up.used.kind] -= 1
