"""What a plan will cost on the nodes of a prices file: its rates, its schedule, and what they come to."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.cost.prices import Prices
from pipeline.cost.rates import Kind, Rate, Rates, samples
from pipeline.cost.room import Demand, check_possible, demand_of, places_on
from pipeline.cost.simulate import Job, Schedule, critical_path, lengthened, simulate
from pipeline.cost.work import Data, Works, data_of, images_in
from pipeline.experiment import Experiment
from pipeline.plan import Plan
from pipeline.step import Step
from pipeline.store import Store
from stages import prepare
from stages.data.dataset_config import DatasetConfig
from stages.data.datasets import describe
from stages.summarize import aligned

HOUR = 3600
MEANINGS = {
    "stated": "stated: the prices file's rates",
    "measured": "measured: n such steps in the store, on such hardware",
    "scaled": "scaled: other steps of the stage (n of them in the store), by the operations and bytes of both",
    "assumed": "assumed: operations and bytes under the prices file's assumptions; nothing like it is in the store",
}


@dataclass(frozen=True)
class Row:
    """A stage. seconds: of a step to run, on average.  sources: what its rates are and from how many measurements."""

    stage: str
    steps: int
    to_run: int
    seconds: float
    sources: dict[str, int]
    gpu_hours: float
    money: float


@dataclass(frozen=True)
class Spread:
    """Totals where every rate with a known spread is at one quartile."""

    hours: float
    money: float


@dataclass(frozen=True)
class Estimate:
    """What is left of a plan costs. Hours, and money in `currency`.

    idle_money: for nodes that start, wait or are partly unused; part of `money`.  spread_unknown: steps to run whose
    rate's spread nobody knows.  utilisation: the part of each resource that was up and in use.
    """

    currency: str
    as_of: str
    stages: tuple[Row, ...]
    hours: float
    money: float
    idle_money: float
    low: Spread | None
    high: Spread | None
    spread_unknown: int
    critical_path_hours: float
    gpu_hours: float
    node_hours: dict[str, float]
    nodes: dict[str, int]
    utilisation: dict[str, float]
    written_gb: float
    storage_money_month: float

    def figures(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return asdict(self)

    def table(self) -> str:
        """Everything, for people."""
        rows = [
            (
                row.stage,
                str(row.steps),
                str(row.to_run),
                f"{row.seconds:,.1f}" if row.to_run else "",
                ", ".join(f"{name} ({n})" if n else name for name, n in row.sources.items()),
                f"{row.gpu_hours:,.2f}" if row.to_run else "",
                f"{row.money:,.2f}" if row.to_run else "",
            )
            for row in self.stages
        ]
        rows.append(("idle and starting", "", "", "", "", "", f"{self.idle_money:,.2f}"))
        counts = str(sum(row.steps for row in self.stages)), str(sum(row.to_run for row in self.stages))
        foot = ("all", *counts, "", "", f"{self.gpu_hours:,.2f}", f"{self.money:,.2f}")
        head = ("stage", "steps", "to run", "s a step", "from", "GPU hours", self.currency)
        return "\n".join([aligned(head, rows, foot), *self._legend(), *self._totals()])

    def _legend(self) -> list[str]:
        named = {name for row in self.stages for name in row.sources}
        return [text for name, text in MEANINGS.items() if name in named]

    def _totals(self) -> list[str]:
        time = f"time on these nodes: {shown(self.hours)}"
        money = f"money: {self.money:,.2f} {self.currency}"
        if self.low and self.high:
            time += f" ({shown(self.low.hours)} to {shown(self.high.hours)})"
            money += f" ({self.low.money:,.2f} to {self.high.money:,.2f}, all rates at their lower or upper quartile"
            money += f"; {self.spread_unknown} steps have no known spread)" if self.spread_unknown else ")"
        elif self.spread_unknown:
            money += " (no rate has a known spread)"
        money += f"; {self.storage_money_month:,.2f} a month for the {self.written_gb:,.1f} GB it writes"
        return [
            time,
            f"critical path: {shown(self.critical_path_hours)}; no number of such nodes is quicker",
            "nodes: " + ", ".join(f"{n} × {name}, {self.node_hours[name]:,.1f} h" for name, n in self.nodes.items()),
            "in use while up: " + ", ".join(f"{name} {100 * part:.0f} %" for name, part in self.utilisation.items()),
            f"{money}. Prices {self.as_of}" if self.as_of else money,
        ]


def shown(hours: float) -> str:
    """A length of time for people."""
    seconds = hours * HOUR
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if hours < 2 else f"{hours:,.1f} h"


def estimate(
    plan: Plan,
    experiments: Mapping[str, Experiment],
    prices: Prices,
    store: Store,
    needed: set[str],
    written: Mapping[str, int],
) -> Estimate:
    """What the `needed` steps of a plan cost. written: bytes that each step leaves (see `pipeline.sizes`).

    Raises InputError where a step has no place on any node.
    """
    runtimes = next(iter(experiments.values())).runtime
    steps = [step for key, step in plan.steps.items() if key in needed]
    demands = {stage: demand_of(stage, runtimes, prices) for stage in {step.stage for step in steps}}
    check_possible(demands, prices)
    rates = Rates(prices, samples(store))
    kinds = _kinds(plan, experiments, steps)
    jobs, found = _jobs(steps, kinds, demands, rates, prices, "seconds")
    schedule = simulate(jobs, prices)
    unknown = sum(rates_of[on].low is None for rates_of, on in zip(found, schedule.ran_on, strict=True))
    low, high = (
        _spread(steps, kinds, demands, rates, prices, end) if unknown < len(steps) else None for end in ("low", "high")
    )
    by_stage, idle = _money_by_stage(schedule, prices)
    rows = []
    for stage, all_of_it in plan.by_stage():
        mine = [number for number, step in enumerate(steps) if step.stage == stage]
        took = sum(jobs[number].seconds[schedule.ran_on[number]] for number in mine)
        demand = demands.get(stage, Demand(()))
        rows.append(
            Row(
                stage,
                len(all_of_it),
                len(mine),
                took / max(1, len(mine)),
                _sources([found[number][schedule.ran_on[number]] for number in mine]),
                took * demand.gpus * demand.workers / HOUR,
                by_stage[stage],
            )
        )
    gigabytes = sum(written[step.key] for step in steps) / 1e9
    return Estimate(
        currency=prices.currency,
        as_of=prices.as_of,
        stages=tuple(rows),
        hours=schedule.seconds / HOUR,
        money=sum(by_stage.values()) + idle,
        idle_money=idle,
        low=low,
        high=high,
        spread_unknown=unknown,
        critical_path_hours=critical_path(jobs) / HOUR,
        gpu_hours=sum(row.gpu_hours for row in rows),
        node_hours={name: seconds / HOUR for name, seconds in _up(schedule).items()},
        nodes=dict(Counter(node.kind for node in schedule.nodes)),
        utilisation=_utilisation(jobs, schedule, prices),
        written_gb=gigabytes,
        storage_money_month=gigabytes * prices.storage_price_gb_month,
    )


def _kinds(plan: Plan, experiments: Mapping[str, Experiment], steps: list[Step]) -> list[Kind]:
    seen: dict[DatasetConfig, Data] = {}  # a listing takes long
    for experiment in experiments.values():
        if experiment.dataset not in seen:
            seen[experiment.dataset] = data_of(experiment, describe(experiment.dataset, absent_ok=True))
    prepared = {key: step.params.dataset for key, step in plan.steps.items() if isinstance(step.params, prepare.Params)}
    shards = {key: images_in(step) for key, step in plan.steps.items() if step.stage == "shard"}
    works = Works(plan.steps, {key: seen[dataset] for key, dataset in prepared.items()}, shards)
    return [Kind.of(step, works) for step in steps]


def _jobs(
    steps: list[Step], kinds: list[Kind], demands: Mapping[str, Demand], rates: Rates, prices: Prices, end: str
) -> tuple[list[Job], list[dict[str, Rate]]]:
    """The steps as jobs, and the rates of each by node. end: `seconds`, or the `low` or `high` ones where known."""
    places = {step.key: number for number, step in enumerate(steps)}
    of_kind: dict[Kind, tuple[dict[str, float], dict[str, Rate]]] = {}
    jobs, found = [], []
    for step, kind in zip(steps, kinds, strict=True):
        demand = demands[step.stage]
        if kind not in of_kind:
            nodes = [name for name, node in prices.nodes.items() if places_on(node, demand)]
            own = {name: rates.of(kind, name, demand) for name in nodes}
            of_kind[kind] = {name: _seconds(rate, kind, name, demand, prices, end) for name, rate in own.items()}, own
        seconds, own = of_kind[kind]
        needs = tuple(places[ref.key] for ref in step.inputs.values() if ref.key in places)
        jobs.append(Job(step.stage, needs, demand, seconds))
        found.append(own)
    return jobs, found


def _seconds(rate: Rate, kind: Kind, name: str, demand: Demand, prices: Prices, end: str) -> float:
    """Seconds that a step holds its place on a node, what is around it and what interruptions cost included."""
    node, take = prices.nodes[name], prices.assumptions
    known: float | None = getattr(rate, end)
    seconds = (rate.seconds if known is None else known) + take.seconds_around_step
    interval = max(take.checkpoint_seconds, seconds / kind.work.parts) if kind.work.parts > 1 else seconds
    restart = node.start_minutes * 60 + take.seconds_around_step
    return lengthened(seconds, interval, restart, node.interruptions_per_hour * demand.workers)


def _spread(
    steps: list[Step], kinds: list[Kind], demands: Mapping[str, Demand], rates: Rates, prices: Prices, end: str
) -> Spread:
    jobs, _ = _jobs(steps, kinds, demands, rates, prices, end)
    schedule = simulate(jobs, prices)
    by_stage, idle = _money_by_stage(schedule, prices)
    return Spread(schedule.seconds / HOUR, sum(by_stage.values()) + idle)


def _up(schedule: Schedule) -> defaultdict[str, float]:
    """Paid seconds by kind of node."""
    up: defaultdict[str, float] = defaultdict(float)
    for node in schedule.nodes:
        up[node.kind] += node.stop - node.start
    return up


def _money_by_stage(schedule: Schedule, prices: Prices) -> tuple[defaultdict[str, float], float]:
    """What each stage's share of the nodes costs, and what remains for nobody's."""
    money: defaultdict[str, float] = defaultdict(float)
    idle = 0.0
    for node in schedule.nodes:
        per_second, up = prices.nodes[node.kind].price_per_hour / HOUR, node.stop - node.start
        taken = sum(node.shares.values())
        # Shares are of different resources (a GPU, all CPUs), so that together they may be more than the node.
        fair = min(1.0, up / taken) if taken else 0.0
        for stage, share in node.shares.items():
            money[stage] += share * fair * per_second
        idle += (up - taken * fair) * per_second
    return money, idle


def _utilisation(jobs: list[Job], schedule: Schedule, prices: Prices) -> dict[str, float]:
    used: defaultdict[str, float] = defaultdict(float)
    for job, on in zip(jobs, schedule.ran_on, strict=True):
        used["CPU"] += job.seconds[on] * job.demand.cpus * job.demand.workers
        used["GPU"] += job.seconds[on] * job.demand.gpus * job.demand.workers
    up = _up(schedule)
    had = {name: sum(s * prices.nodes[kind].resources.get(name, 0) for kind, s in up.items()) for name in used}
    return {name: used[name] / seconds for name, seconds in had.items() if seconds}


def _sources(rates: list[Rate]) -> dict[str, int]:
    """The kinds of sources, with the largest number of measurements behind one of them."""
    found: dict[str, int] = {}
    for rate in rates:
        found[rate.source] = max(rate.n, found.get(rate.source, 0))
    return found
