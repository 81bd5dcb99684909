"""Steps by several workers on a real Ray Train: the same result as of one, also where a worker is killed."""

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pipeline.execute import LOG, InputGone, execute
from pipeline.plan import Plan
from pipeline.step import Step
from pipeline.store import Manifest, Store, open_store
from pipeline.train_group import GroupFailed, run_group
from stages.config import InputError
from stages.stage import Report, Runtime

ALONE = Runtime(device="cpu")
TWO = Runtime(device="cpu", workers=2, checkpoint_seconds=0)
WANTED = {"CPU": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def retraining(plan_tiny: Callable[[dict[str, Any]], Plan], store: Store, **changes: Any) -> Step:
    """A step that trains a clean victim, its inputs committed."""
    plan = plan_tiny({f"training.{name}": value for name, value in changes.items()})
    step = next(step for step in plan.steps.values() if step.stage == "retrain" and "overlay" not in step.inputs)
    for ref in step.inputs.values():
        execute(plan.steps[ref.key], store, ALONE)
    return step


def reporter(file: Path) -> Report:
    """A report that writes down what it is told."""

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        with file.open("a") as lines:
            lines.write(f"{os.getpid()} {done}\n")

    return report


def group(step: Step, store: Store, reports: Path, runtime: Runtime = TWO) -> Any:
    """The Ray task that leads a group."""
    import ray

    lead = ray.remote(num_cpus=0, max_retries=0)(run_group)
    return lead.remote(step, store.url, runtime, WANTED, partial(reporter, reports))


def output(store: Store, manifest: Manifest, folder: Path) -> tuple[dict[str, Any], Any]:
    store.fetch(manifest, folder)
    return json.loads((folder / "curves.json").read_text()), load_file(folder / "watched.safetensors")["logits"]


def test_two_workers_commit_what_one_does(
    tmp_path: Path, plan_tiny: Any, store: Store, machines: Sequence[Mapping[str, float]]
) -> None:
    import ray

    alone = open_store(tmp_path / "alone")
    step = retraining(plan_tiny, alone, epochs=3)
    retraining(plan_tiny, store, epochs=3)
    expected, logits = output(alone, execute(step, alone, ALONE), tmp_path / "one")
    manifest = ray.get(group(step, store, tmp_path / "reports"))
    assert manifest == store.read(*step.ref) and manifest.provenance["workers"] == 2
    found, theirs = output(store, manifest, tmp_path / "two")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found["watched_epochs"] == expected["watched_epochs"] and found["rate"] == expected["rate"]
    assert (theirs.float() - logits.float()).abs().max() < 0.01
    reports = [line.split() for line in (tmp_path / "reports").read_text().splitlines()]
    assert [done for _, done in reports] == ["1", "2", "3"] and len({pid for pid, _ in reports}) == 1, "one reports"
    assert list(store.scratch(step.key).iterdir()) == []
    assert ray.get(group(step, store, tmp_path / "again")) == manifest and not (tmp_path / "again").exists()


def workers_of_ray(processes: Any) -> dict[int, str]:
    """The processes of Ray Train's workers."""
    return {pid: command for pid, command in processes.below(os.getpid()).items() if "RayTrainWorker" in command}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["first", "other"])
def test_a_group_that_loses_a_worker_within_an_epoch_goes_on_there(
    victim: str, tmp_path: Path, plan_tiny: Any, store: Store, machines: Sequence[Mapping[str, float]], processes: Any
) -> None:
    import ray

    alone, reports = open_store(tmp_path / "alone"), tmp_path / "reports"
    step = retraining(plan_tiny, alone, epochs=30, batch_size=32)
    retraining(plan_tiny, store, epochs=30, batch_size=32)
    expected, logits = output(alone, execute(step, alone, ALONE), tmp_path / "one")
    running = group(step, store, reports)
    processes.until(lambda: reports.exists() and len(reports.read_text().splitlines()) >= 3, 200, "no epoch ended")
    first = int(reports.read_text().split()[0])
    other = next(pid for pid in workers_of_ray(processes) if pid != first)
    os.kill(first if victim == "first" else other, signal.SIGKILL)
    found, theirs = output(store, ray.get(running), tmp_path / "two")
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert (theirs.float() - logits.float()).abs().max() < 0.1
    lines = [line.split() for line in reports.read_text().splitlines()]
    before = [int(done) for pid, done in lines if int(pid) == first]
    after = [int(done) for pid, done in lines if int(pid) != first]
    assert before == list(range(1, len(before) + 1)) and after == list(range(after[0], 31))
    assert after[0] in (len(before), len(before) + 1), "an epoch that had ended is not done again"


def die() -> Report:
    """In place of what makes a report: each worker of a group calls it before it begins."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


@pytest.mark.slow
def test_a_group_that_never_gets_on_fails(
    plan_tiny: Any, store: Store, machines: Sequence[Mapping[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = retraining(plan_tiny, store)
    monkeypatch.setattr("pipeline.train_group.LOSSES", 2)
    with ThreadPoolExecutor(1) as thread, pytest.raises(GroupFailed, match="lost a worker 2 times without getting on"):
        thread.submit(run_group, step, store.url, TWO, WANTED, die).result()
    assert store.read(*step.ref) is None
    assert reserved() == [], "what it had reserved is free"


def reserved() -> list[str]:
    """The states of the placement groups that there are."""
    import ray

    return [group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]


@pytest.mark.slow
@pytest.mark.parametrize(("cpus", "state"), [(0.5, "CREATED"), (1000, "PENDING")])
def test_what_a_lost_leader_had_reserved_is_free_for_the_next(
    cpus: float,
    state: str,
    tmp_path: Path,
    plan_tiny: Any,
    store: Store,
    machines: Sequence[Mapping[str, float]],
    processes: Any,
) -> None:
    import ray

    step, wanted = retraining(plan_tiny, store), {"CPU": cpus}
    lead = ray.remote(num_cpus=0, max_retries=0)(run_group)
    lost = lead.remote(step, store.url, TWO, wanted, partial(reporter, tmp_path / "lost"))
    processes.until(lambda: state in reserved(), 60, "nothing was reserved")
    ray.cancel(lost, force=True)
    with pytest.raises(ray.exceptions.RayError):
        ray.get(lost)
    ray.get(group(step, store, tmp_path / "reports"))
    assert reserved() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 2}, InputError, r"runtime\.workers: 2 workers train together, and the batches have 2 images"),
        ({"learning_rate": 1e30}, GroupFailed, r"FloatingPointError: the training loss is \w+ after epoch 1; lower"),
    ],
)
def test_the_steps_own_fault_is_told_as_by_one_worker(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    plan_tiny: Any,
    store: Store,
    machines: Sequence[Mapping[str, float]],
) -> None:
    import ray

    step = retraining(plan_tiny, store, **changes)
    with pytest.raises(error, match=message):
        ray.get(group(step, store, tmp_path / "reports"))
    text = (store.scratch(step.key) / LOG).read_text()
    assert 1 <= text.count("Traceback (most recent call last)") <= 2, "at most once a worker: it is not tried again"
    assert message.rsplit(maxsplit=1)[-1] in text


@pytest.mark.slow
def test_an_input_that_is_gone_is_named(
    tmp_path: Path, plan_tiny: Any, store: Store, machines: Sequence[Mapping[str, float]]
) -> None:
    import ray

    step = retraining(plan_tiny, store)
    dataset = step.inputs["dataset"]
    store.remove(*dataset)
    with pytest.raises(InputGone) as gone:
        ray.get(group(step, store, tmp_path / "reports"))
    assert gone.value.ref == dataset
    assert gone.value.absent, "not damaged: the machine may not see it yet"
