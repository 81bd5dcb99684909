"""What a task tells while it leads a step, on a real Ray."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import execute
from pipeline.resources import Machine
from pipeline.store import open_store
from pipeline.store.s3 import S3Store
from pipeline.store.s3_address import parse
from pipeline.store.s3_client import Patience
from pipeline.train_release import release_ownerless
from pipeline.work import Away, Board, work
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
    runtime = Runtime(device="cpu", workers=2, cpus=cpus)
    running = lead.remote(step, store.url, runtime, {"CPU": cpus}, board, "a run", False)

    def placed() -> list[str]:
        return [group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]

    if runs:
        ray.get(running)
    else:
        processes.until(lambda: "PENDING" in placed(), 60, "no workers were asked for")
    assert bool(ray.get(board.read.remote())) == runs
    ray.cancel(running, force=True)
    processes.until(lambda: release_ownerless() or not placed(), 60, "a group was left")


def test_a_store_that_is_away_says_nothing_of_the_step(
    plan_tiny: Any, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = "s3://bucket/prefix?endpoint=http://127.0.0.1:9"
    monkeypatch.setattr("pipeline.work.open_store", lambda url: S3Store(parse(url), Patience(0.5, longest=0.1)))
    step = next(iter(plan_tiny({}).steps.values()))
    result = work(step, away, Runtime(device="cpu"), {"CPU": 1}, None, "a run", False)
    assert isinstance(result, Away)
    assert "did not answer" in result.why
