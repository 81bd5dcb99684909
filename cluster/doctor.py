"""The command `brewline doctor`: is every machine fit to run, before hours are spent on finding out?

Each node is looked at by an actor pinned to it, all at the same time and each within a time limit, so that one node
that hangs is named and does not hold up the others.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from cluster.examine import Facts, examine
from cluster.verdicts import FAIL, Finding, Machine, as_json, judge, table, worst
from pipeline.cli_store import DEFAULT_STORE, DONE, FAILED, StoreOption
from pipeline.resources import Connect
from pipeline.store import open_store
from pipeline.store.local import LocalStore

CLOCK_SECONDS = 5.0
"""How long a node that has just answered may take to tell the time."""


def doctor(
    context: typer.Context,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster: auto, or host:port. Left out: this machine.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    nodes: Annotated[int | None, typer.Option(min=1, help="How many nodes there should be.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a node counts as hanging.")] = 120,
    machine_readable: Annotated[
        bool, typer.Option("--json", help="End standard output with one line of JSON.")
    ] = False,
) -> None:
    """Check every node: versions, GPUs, disks, clock, store and data. Exits with 1 where something fails."""
    with _mark(store) as mark:
        ours = examine(store)
        if address is None:
            machines = [Machine(ours["host"], "this machine", ours)]
        else:
            connect: Connect = context.obj
            with connect(address):
                machines = _cluster(store, mark, timeout)
    for machine in machines:
        machine.findings.extend(judge(machine, ours))
    if nodes is not None and len(machines) < nodes:
        advice = f"{len(machines)} of {nodes} nodes are there; wait, or look at `ray status` and the autoscaler's log"
        machines[0].findings.append(Finding("nodes", FAIL, str(len(machines)), advice))
    print(table(machines))
    verdict = worst([finding.verdict for machine in machines for finding in machine.findings])
    print(
        f"{verdict}: {len(machines)} {'machine' if len(machines) == 1 else 'machines'}, store {open_store(store).url}"
    )
    if machine_readable:
        print(json.dumps(as_json(machines)))
    raise typer.Exit(FAILED if verdict == FAIL else DONE)


@contextmanager
def _mark(store: str) -> Iterator[str | None]:
    """A file in a store that is a folder, by which other machines see whether theirs is the same one.

    None for other stores, and where the folder cannot be written: the probe says why.
    """
    opened = open_store(store)
    mark = Path(opened.url, f".doctor-{uuid4().hex}") if isinstance(opened, LocalStore) else None
    try:
        if mark is not None:
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    except OSError:
        mark = None
    try:
        yield None if mark is None else mark.name
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)


class _Examiner:
    """The actor on a node."""

    def examine(self, store: str, mark: str | None) -> Facts:
        return examine(store, mark)

    def clock(self) -> float:
        return time.time()


def _cluster(store: str, mark: str | None, timeout: float) -> list[Machine]:
    """All live nodes of the cluster that this process is connected to, the head first."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = open_store(store).url  # a relative folder is meant from here
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: not _is_head(node))
    actors, answers = {}, {}
    for node in alive:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor: Any = ray.remote(num_cpus=0, max_restarts=0)(_Examiner)
        actors[node["NodeID"]] = actor.options(scheduling_strategy=pinned).remote()
        answers[node["NodeID"]] = actors[node["NodeID"]].examine.remote(here, mark)
    ray.wait(list(answers.values()), num_returns=len(answers), timeout=timeout)
    machines = [_met(node, actors[node["NodeID"]], answers[node["NodeID"]], timeout) for node in alive]
    for actor in actors.values():
        ray.kill(actor)
    return machines


def _met(node: dict[str, Any], actor: Any, answer: Any, timeout: float) -> Machine:
    """What came of one node's examination."""
    import ray

    resources = node["Resources"]
    gpus = resources.get("GPU", 0)
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"
    kind = f"{'head' if _is_head(node) else 'worker'}, {resources.get('CPU', 0):g} CPU"
    kind += f", {gpus:g} GPU" if gpus else ""
    try:
        facts: Facts = ray.get(answer, timeout=0)
        offset, uncertainty = _offset(actor)
    except ray.exceptions.GetTimeoutError:
        problem = f"did not answer in {timeout:g} s; it hangs or starts no workers: drain it, or raise --timeout"
        return Machine(name, kind, None, problem, gpus)
    except ray.exceptions.RayError as error:
        said = str(error).strip().splitlines()[-1]
        problem = (
            f"could not be looked at ({type(error).__name__}: {said}); is brewline of this version installed there?"
        )
        return Machine(name, kind, None, problem, gpus)
    return Machine(name, kind, facts, "", gpus, offset, uncertainty)


def _offset(actor: Any) -> tuple[float, float]:
    """By how many seconds a node's clock is ahead, and how surely, from the quickest of three answers."""
    import ray

    found = []
    for _ in range(3):
        before = time.time()
        there = ray.get(actor.clock.remote(), timeout=CLOCK_SECONDS)
        after = time.time()
        found.append(((after - before) / 2, there - (before + after) / 2))
    uncertainty, offset = min(found)
    return offset, uncertainty


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]
