"""One step without Ray: committed once, logged when it fails, and honest about inputs that are not there."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import LOG, InputGone, committed, execute
from pipeline.plan import Plan
from pipeline.step import Step
from pipeline.store import Store, StoreError, open_store
from stages.stage import Checkpoint, Runtime

RUNTIME = Runtime(device="cpu")
Planner = Callable[[dict[str, Any]], Plan]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def steps(plan_tiny: Planner) -> dict[str, Step]:
    return {step.label: step for step in plan_tiny({"training.epochs": 4}).steps.values()}


def test_a_step_is_committed_with_what_it_is_and_where_it_ran(store: Store, steps: dict[str, Step]) -> None:
    step = steps["prepare digits"]
    assert committed(store, step) is None
    manifest = execute(step, store, RUNTIME)
    assert manifest == committed(store, step)
    assert (manifest.key, manifest.params, manifest.inputs) == (step.key, step.made_of["params"], {})
    assert manifest.metrics["train_images"] == 300
    assert {"host", "started", "seconds", "versions"} <= set(manifest.provenance)
    assert {"python", "torch", "numpy"} <= set(manifest.provenance["versions"])
    assert list(store.scratch(step.key).iterdir()) == [], "a committed step leaves nothing behind"


def test_a_step_gets_its_inputs_and_runs_once(store: Store, steps: dict[str, Step]) -> None:
    with pytest.raises(InputGone) as gone:
        execute(steps["pretrain surrogate 0"], store, RUNTIME)
    assert gone.value.ref == steps["prepare digits"].ref
    execute(steps["prepare digits"], store, RUNTIME)
    step, reports = steps["pretrain surrogate 0"], []
    first = execute(step, store, RUNTIME)

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        reports.append(done)

    assert execute(step, store, RUNTIME, report).write_id == first.write_id
    assert reports == [], "what is done is not done again"
    assert execute(step, store, RUNTIME, report, again=True).write_id == first.write_id
    assert reports, "unless it is asked for"


def test_a_damaged_input_is_named(store: Store, steps: dict[str, Step]) -> None:
    prepared = execute(steps["prepare digits"], store, RUNTIME)
    blob = Path(store.url) / "blobs" / prepared.blobs[0].sha256
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    with pytest.raises(InputGone, match=f"damaged: {prepared.blobs[0].name}"):
        execute(steps["pretrain surrogate 0"], store, RUNTIME)
    assert committed(store, steps["pretrain surrogate 0"]) is None


def test_a_step_cut_short_counts_as_not_done_and_is_told(
    store: Store, steps: dict[str, Step], caplog: pytest.LogCaptureFixture
) -> None:
    prepared = execute(steps["prepare digits"], store, RUNTIME)
    blob = Path(store.url) / "blobs" / prepared.blobs[0].sha256
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    assert committed(store, steps["prepare digits"]) is None
    assert f"prepare digits: output {prepared.blobs[0].name} is missing or cut short" in caplog.text


def test_a_failure_leaves_its_traceback_in_the_log_and_a_checkpoint_alone(store: Store, plan_tiny: Planner) -> None:
    steps = {step.stage: step for step in plan_tiny({"training.learning_rate": 1e30}).steps.values()}
    execute(steps["prepare"], store, RUNTIME)
    scratch = store.scratch(steps["pretrain"].key)
    (scratch / "kept").write_text("by an earlier attempt")
    for attempt in (1, 2):
        with pytest.raises(FloatingPointError, match="learning_rate"):
            execute(steps["pretrain"], store, RUNTIME)
        assert (scratch / LOG).read_text().count("Traceback (most recent call last)") == attempt
    assert "FloatingPointError" in (scratch / LOG).read_text()
    assert sorted(path.name for path in scratch.iterdir()) == ["kept", LOG]


def test_an_attempt_that_is_overtaken_gives_what_the_other_committed(store: Store, steps: dict[str, Step]) -> None:
    """The first to commit clears the scratch folder under the other's feet."""
    step = steps["pretrain surrogate 0"]
    execute(steps["prepare digits"], store, RUNTIME)
    other = []

    def overtake(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 1:
            other.append(execute(step, open_store(store.url), RUNTIME))

    mine = execute(step, store, RUNTIME, overtake)
    assert [mine.write_id] == [manifest.write_id for manifest in other]
    assert store.verify(mine) == []


def test_an_output_that_cannot_be_repaired_is_no_success(
    store: Store, steps: dict[str, Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = steps["prepare digits"]
    manifest = execute(step, store, RUNTIME)
    blob = Path(store.url) / "blobs" / manifest.blobs[0].sha256
    blob.chmod(0o644)
    blob.write_bytes(bytes(len(blob.read_bytes())))

    def fail(*_: Any) -> None:
        raise RuntimeError("this machine cannot read the data")

    monkeypatch.setattr("stages.prepare.run", fail)
    with pytest.raises(RuntimeError, match="cannot read the data"):
        execute(step, store, RUNTIME, again=True)


def test_a_step_goes_on_from_its_checkpoint(store: Store, steps: dict[str, Step]) -> None:
    step, often = steps["pretrain surrogate 0"], Runtime(device="cpu", checkpoint_seconds=0)
    execute(steps["prepare digits"], store, RUNTIME)

    def interrupt(done: int, total: int, figures: dict[str, float]) -> None:
        if done == 1:
            time.sleep(1)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(step, store, often, interrupt)
    assert Checkpoint(store.scratch(step.key)).load() is not None
    seen: list[int] = []
    manifest = execute(step, store, RUNTIME, lambda done, total, figures: seen.append(done))
    assert seen == [4]
    assert manifest.provenance["seconds"] > 1, "what the first attempt took counts: costs are told by it"


def test_a_manifest_that_is_of_another_step_is_no_hit(store: Store, steps: dict[str, Step]) -> None:
    step = steps["prepare digits"]
    execute(step, store, RUNTIME)
    file = Path(store.url) / "steps" / "prepare" / f"{step.key}.json"
    fields = json.loads(file.read_text())
    fields["params"]["dataset"]["per_class"] = 31
    file.write_text(json.dumps(fields))
    with pytest.raises(RuntimeError, match="made of other params"):
        committed(store, step)


def test_a_disk_that_fills_while_a_step_runs_is_told_and_loses_nothing(
    small_disk: Path, steps: dict[str, Step]
) -> None:
    store = open_store(small_disk / "store")
    prepared = execute(steps["prepare digits"], store, RUNTIME)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StoreError, match=f"disk of {store.url} is full.*free some space and run again"):
        execute(steps["pretrain surrogate 0"], store, RUNTIME)
    assert committed(store, steps["prepare digits"]) == prepared
    filler.unlink()
    execute(steps["pretrain surrogate 0"], store, RUNTIME)
    assert committed(store, steps["pretrain surrogate 0"]) is not None
