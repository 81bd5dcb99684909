"""What a task tells while it leads a step, on a real Ray."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import execute
from pipeline.resources import Machine
from pipeline.store import open_store
from pipeline.train_release import release_ownerless
from pipeline.work import Board, work
from stages.stage import Runtime


@pytest.mark.parametrize(("cpus", "runs"), [(1000, False), (0.5, True)])
def test_a_group_runs_once_its_workers_are_there(
    cpus: float, runs: bool, tmp_path: Path, plan_tiny: Any, machines: list[Machine], processes: Any
) -> None:
    import ray

    store, plan = open_store(tmp_path / "store"), plan_tiny({})
    step = next(step for step in plan.steps.values() if step.stage == "pretrain")
    for ref in step.inputs.values():
        execute(plan.steps[ref.key], store, Runtime(device="cpu"))
    board = ray.remote(num_cpus=0)(Board).remote()
    lead = ray.remote(num_cpus=0, max_retries=0)(work)
    running = lead.remote(step, store.url, Runtime(device="cpu", workers=2, cpus=cpus), board, "a run", False)

    def placed() -> list[str]:
        return [group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]

    if runs:
        ray.get(running)
    else:
        processes.until(lambda: "PENDING" in placed(), 60, "no workers were asked for")
    assert bool(ray.get(board.read.remote())) == runs
    ray.cancel(running, force=True)
    processes.until(lambda: release_ownerless() or not placed(), 60, "a group was left")
