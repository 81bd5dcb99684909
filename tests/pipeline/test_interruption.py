"""The command may be killed at any moment: what is committed stays, nothing is left running, and running again ends
where an undisturbed run ends."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import execute
from pipeline.plan import Plan
from pipeline.store import open_store
from stages.stage import Checkpoint, Runtime
from tiny_pipeline import Start


def test_killed_at_any_moment_it_loses_nothing_that_is_committed(
    start: Start,
    tiny_file: Path,
    tmp_path: Path,
    finished: Any,
    write_ids: Callable[[Path], dict[str, str]],
    processes: Any,
) -> None:
    store, committed, agents = tmp_path / "store", {}, {}
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    total = finished.result["steps"]["total"]
    for target in sorted(rng.sample(range(total - 1), 3)):
        process = start("run", tiny_file, "--store", store)
        processes.until(lambda n=target: len(write_ids(store)) >= n, 180, f"less than {target} steps are committed")
        time.sleep(rng.uniform(0, 0.5))
        below = processes.below(process.pid)
        process.kill()
        process.communicate()
        # Ray's own two agents look only now and then whether their node still lives, and a worker that has not joined
        # its node yet (it has no name of Ray's then, and no work) waits for it for a while.
        agents |= {pid: command for pid, command in below.items() if "Agent" in command or "default_worker" in command}
        working = set(below) - set(agents)
        processes.until_gone(working, 20, "the killed run's Ray still runs")
        found = write_ids(store)
        assert committed.items() <= found.items()
        committed = found
    process = start("run", tiny_file, "--store", store)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    found = write_ids(store)
    assert committed.items() <= found.items()
    assert len(found) == total
    summary = store / "runs" / finished.result["run"] / "summary.json"
    assert summary.read_bytes() == (finished.folder / "summary.json").read_bytes()
    processes.until_gone(agents, 120, "the killed runs' agents still run")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_says_so_and_keeps_its_checkpoints(
    start: Start,
    tiny_file: Path,
    tmp_path: Path,
    plan_tiny: Callable[[dict[str, Any]], Plan],
    processes: Any,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    plan, store = plan_tiny({"training.epochs": 100_000}), open_store(tmp_path / "store")
    steps = {step.stage: step for step in reversed(plan.steps.values())}
    runtime, surrogate = Runtime(device="cpu", checkpoint_seconds=0), steps["pretrain"]
    execute(steps["prepare"], store, runtime)

    def stop(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(surrogate, store, runtime, stop)

    process = start("run", tiny_file, "--store", store.url, "--set", "training.epochs=100000")
    events = tmp_path / "store" / "runs" / plan.run / "events.jsonl"
    processes.until(lambda: events.exists() and "running" in events.read_text(), 180, "no step runs")
    below = processes.below(process.pid)
    assert below
    # A terminal sends ^C to the whole group; whoever stops a service sends SIGTERM to the one process.
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err
    processes.until_gone(below, 20, "the interrupted run's Ray still runs")
    assert '"event": "interrupted"' in events.read_text().splitlines()[-1]
    kept = Checkpoint(store.scratch(surrogate.key)).load()
    assert kept is not None
    assert kept[1]["epoch"] >= 4
    assert store.read(*surrogate.ref) is None


@pytest.mark.slow
def test_two_runs_at_once_share_the_work_and_agree(
    start: Start, tiny_file: Path, tmp_path: Path, finished: Any, write_ids: Callable[[Path], dict[str, str]]
) -> None:
    store = tmp_path / "store"
    pair = [start("run", tiny_file, "--store", store) for _ in range(2)]
    for process in pair:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    assert len(write_ids(store)) == finished.result["steps"]["total"]
    summary = store / "runs" / finished.result["run"] / "summary.json"
    assert summary.read_bytes() == (finished.folder / "summary.json").read_bytes()
