"""Runs on a real Ray: what fails, dies or is damaged costs only itself, and what is done is not done again."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import LOG
from pipeline.experiment import Runtimes
from pipeline.losses import ATTEMPTS
from pipeline.needs import cached_steps, needed_steps
from pipeline.outcome import Outcome
from pipeline.plan import Plan
from pipeline.resources import Machine, at_once, check_resources, impossible, infeasible, may_grow, ray_options, wants
from pipeline.runner import Runner
from pipeline.step import Step
from pipeline.store import Manifest, Store, open_store
from pipeline.work import Away, Failure, Progress, work
from stages.config import InputError
from stages.data.dataset_config import ImageNet
from stages.data.datasets import resolve
from stages.stage import Runtime

RUNTIMES = Runtimes(device="cpu")
Planner = Callable[[dict[str, Any]], Plan]


class Record:
    """Writes down all that a runner tells."""

    def __init__(self) -> None:
        self.progress: list[tuple[str, Progress]] = []
        self.done: list[str] = []
        self.again: list[tuple[str, str]] = []
        self.broken: list[str] = []
        self.waited: list[str] = []
        self.pauses: list[str] = []

    def progressed(self, reports: Mapping[str, Progress]) -> None:
        self.progress += reports.items()

    def ended(self, step: Step, manifest: Manifest, ours: bool) -> None:
        self.done.append(step.label)

    def repeated(self, step: Step, why: str) -> None:
        self.again.append((step.label, why))

    def failed(self, step: Step, failure: Failure) -> None:
        self.broken.append(step.label)

    def paused(self, step: Step) -> None:
        self.pauses.append(step.label)

    def waiting(self, why: str) -> None:
        self.waited.append(why)


def run(plan: Plan, store: Store, machines: list[Machine], record: Record) -> Outcome:
    return Runner(plan, store, RUNTIMES, machines, record).run(cached_steps(plan, store))


def labels(plan: Plan, keys: set[str]) -> set[str]:
    return {plan.steps[key].label for key in keys}


def assert_whole(plan: Plan, store: Store) -> None:
    assert cached_steps(plan, store) == set(plan.steps)
    assert [problem for manifest in store.manifests() for problem in store.verify(manifest)] == []


def test_each_step_runs_once_after_its_inputs(tmp_path: Path, plan_tiny: Planner, machines: list[Machine]) -> None:
    plan, store, record = plan_tiny({"victims.count": 2}), open_store(tmp_path), Record()
    outcome = run(plan, store, machines, record)
    assert (outcome.ran, outcome.cached, outcome.failed, outcome.blocked) == (set(plan.steps), set(), {}, set())
    assert sorted(record.done) == sorted(labels(plan, set(plan.steps)))
    position = {label: number for number, label in enumerate(record.done)}
    for step in plan.steps.values():
        assert all(position[plan.steps[ref.key].label] < position[step.label] for ref in step.inputs.values())
    assert outcome.counts(plan) == {
        "total": len(plan.steps),
        "cached": 0,
        "ran": len(plan.steps),
        "failed": 0,
        "blocked": 0,
    }
    assert_whole(plan, store)
    assert needed_steps(plan, cached_steps(plan, store)) == set()


def test_a_failing_step_blocks_those_who_need_it_and_nobody_else(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine]
) -> None:
    training = {"epochs": 2, "learning_rate": 1e30, "augmentation": {"flip": False, "pad": 1}}
    plan, store, record = plan_tiny({"victims.training": training}), open_store(tmp_path), Record()
    outcome = run(plan, store, machines, record)
    assert labels(plan, set(outcome.failed)) == {"retrain clean victim 0", "retrain case 0 victim 0"}
    assert {plan.steps[key].stage for key in outcome.blocked} == {"evaluate", "summarize"}
    assert {plan.steps[key].stage for key in outcome.ran} == {"prepare", "pretrain", "case", "brew", "select", "export"}
    assert len(outcome.ran) + len(outcome.failed) + len(outcome.blocked) == len(plan.steps)
    for failure in outcome.failed.values():
        assert "FloatingPointError: the training loss is nan" in failure.why
        assert "training.learning_rate" in failure.why
        assert not failure.bad_input
        assert "Traceback (most recent call last)" in Path(failure.log).read_text()
    again = run(plan, store, machines, Record())
    assert (again.ran, again.cached, set(again.failed)) == (set(), outcome.ran, set(outcome.failed))


def test_a_step_waits_for_a_store_that_is_away(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store, record, asked = plan_tiny({}), open_store(tmp_path / "store"), Record(), tmp_path / "asked"
    real = work

    def twice_away(step: Step, *rest: Any) -> Any:
        with asked.open("a") as file:
            file.write(f"{step.label}\n")
        away = step.stage == "brew" and asked.read_text().count(step.label) < 3
        return Away("S3 did not answer") if away else real(step, *rest)

    monkeypatch.setattr("pipeline.runner.work", twice_away)
    monkeypatch.setattr("pipeline.runner.AWAY_SECONDS", 0.5)
    outcome = run(plan, store, machines, record)
    brews = sorted(step.label for step in plan.steps.values() if step.stage == "brew")
    assert outcome.ran == set(plan.steps)
    assert sorted(record.pauses) == sorted(2 * brews)
    assert sorted(record.waited) == sorted(2 * [f"{brew}: S3 did not answer" for brew in brews])
    assert (record.again, record.broken) == ([], []), "it counts neither as lost nor as failed"


class Killer(Record):
    """Kills processes of this Ray at most so many times, each time once a step has reported from within."""

    def __init__(self, step: Step, times: int, victims: Callable[[], list[int]]) -> None:
        super().__init__()
        self._step, self._left, self._victims = step, times, victims
        self._killed: set[int] = set()  # one takes a moment to die

    def progressed(self, reports: Mapping[str, Progress]) -> None:
        super().progressed(reports)
        if self._left and self._step.key in reports and reports[self._step.key].done > 0:
            for pid in set(self._victims()) - self._killed:
                os.kill(pid, signal.SIGKILL)
                self._killed.add(pid)
                self._left -= 1

    @property
    def left(self) -> int:
        return self._left


def workers_of(step: Step, store: Store, processes: Any) -> list[int]:
    """The processes below this one that have the step's log open."""
    log = store.scratch(step.key) / LOG

    def has_it_open(pid: int) -> bool:
        try:
            return any(link.resolve() == log for link in Path(f"/proc/{pid}/fd").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            return False

    return [pid for pid in processes.below(os.getpid()) if has_it_open(pid)]


def test_a_step_whose_worker_is_killed_runs_again(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine], processes: Any
) -> None:
    plan, store = plan_tiny({"surrogates.training.epochs": 100}), open_store(tmp_path)
    surrogate = next(step for step in plan.steps.values() if step.stage == "pretrain")
    killer = Killer(surrogate, 1, lambda: workers_of(surrogate, store, processes))
    outcome = run(plan, store, machines, killer)
    assert killer.left == 0
    assert [label for label, why in killer.again if "its worker died" in why] == [surrogate.label]
    assert outcome.ran == set(plan.steps)
    assert_whole(plan, store)


def test_a_step_whose_workers_keep_dying_fails_and_the_rest_goes_on(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine], processes: Any
) -> None:
    plan, store = plan_tiny({"surrogates.training.epochs": 100_000}), open_store(tmp_path)
    surrogate = next(step for step in plan.steps.values() if step.stage == "pretrain")
    killer = Killer(surrogate, ATTEMPTS, lambda: workers_of(surrogate, store, processes))
    outcome = run(plan, store, machines, killer)
    assert list(outcome.failed) == [surrogate.key]
    assert f"its worker died (WorkerCrashedError), {ATTEMPTS} times" in outcome.failed[surrogate.key].why
    clean = {"retrain clean victim 0", "evaluate case 0 clean victim 0"}
    assert labels(plan, outcome.ran) == {"prepare digits", "case 0"} | clean
    assert killer.left == 0


@pytest.fixture(scope="session")
def imagenet_tree(imagenet_sample_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real ImageNet images in ImageNet's layout, each ten times in train and once in val."""
    root = tmp_path_factory.mktemp("imagenet")
    for file in imagenet_sample_folder.glob("*/*.JPEG"):
        for split, copies in (("train", 10), ("val", 1)):
            folder = root / split / file.parent.name
            folder.mkdir(parents=True)
            for copy in range(copies):
                (folder / f"{copy}.JPEG").hardlink_to(file)
    return root


@pytest.mark.slow
def test_a_worker_killed_in_a_shard_costs_that_shard(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine], processes: Any, imagenet_tree: Path
) -> None:
    dataset = resolve(ImageNet(root=imagenet_tree, size=64)).model_dump(mode="json")
    changes = {"dataset": dataset, "shards.images_per_shard": 500, "attack.budget": 0.01, "training.epochs": 1}
    plan, store = plan_tiny(changes), open_store(tmp_path)
    shards = {step.label: step for step in plan.steps.values() if step.stage == "shard"}
    assert list(shards) == ["shard train 0", "shard train 1", "shard test 0"]
    killer = Killer(shards["shard train 0"], 1, lambda: workers_of(shards["shard train 0"], store, processes))
    outcome = run(plan, store, machines, killer)
    assert killer.left == 0
    assert [label for label, why in killer.again if "its worker died" in why] == ["shard train 0"]
    assert outcome.ran == set(plan.steps) and len(killer.done) == len(plan.steps)
    assert_whole(plan, store)


def test_the_death_of_the_board_that_workers_report_to_costs_nothing(
    tmp_path: Path, plan_tiny: Planner, machines: list[Machine], processes: Any
) -> None:
    plan, store = plan_tiny({"surrogates.training.epochs": 100}), open_store(tmp_path)
    surrogate = next(step for step in plan.steps.values() if step.stage == "pretrain")

    def boards() -> list[int]:
        return [pid for pid, command in processes.below(os.getpid()).items() if command.startswith("ray::Board")][:1]

    killer = Killer(surrogate, 1, boards)
    outcome = run(plan, store, machines, killer)
    assert killer.left == 0
    assert (outcome.ran, killer.again) == (set(plan.steps), [])


def flip(blob: Path) -> None:
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)


def truncate(blob: Path) -> None:
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])


@pytest.mark.parametrize(("damage", "stage"), [(flip, "prepare"), (truncate, "prepare"), (Path.unlink, "select")])
def test_a_damaged_output_that_is_needed_is_made_again(
    copied: Path,
    plan_tiny: Planner,
    machines: list[Machine],
    write_ids: Callable[[Path], dict[str, str]],
    damage: Callable[[Path], None],
    stage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan, store, record = plan_tiny({}), open_store(copied), Record()
    damaged = next(step for step in plan.steps.values() if step.stage == stage)
    summary = next(step for step in plan.steps.values() if step.stage == "summarize")
    manifest = store.read(*damaged.ref)
    assert manifest is not None
    blob = manifest.blobs[0]
    before = write_ids(copied)
    store.remove(*summary.ref)
    damage(copied / "blobs" / blob.sha256)
    outcome = run(plan, store, machines, record)
    sharing = {one.key for one in store.manifests() if blob.sha256 in {other.sha256 for other in one.blobs}}
    assert sharing & outcome.ran, "whichever was found first; it brings the bytes back for all"
    labels = {plan.steps[key].label for key in sharing}
    told = [why for label, why in record.again if label in labels] + [caplog.text]
    assert any(blob.name in text for text in told), "the damage must be told"
    assert_whole(plan, store)
    after = write_ids(copied)
    kept = [name for name in before if after[name] == before[name]]
    assert len(kept) >= len(before) - 3, "only the damaged step, who shares its bytes, and the summary run"


def test_what_nobody_needs_does_not_run(copied: Path, plan_tiny: Planner) -> None:
    plan, store = plan_tiny({}), open_store(copied)
    for step in plan.steps.values():
        if step.stage in ("prepare", "brew", "retrain"):
            assert store.remove(*step.ref)
    cached = cached_steps(plan, store)
    assert len(cached) == len(plan.steps) - 5
    assert needed_steps(plan, cached) == set()
    summary = next(step for step in plan.steps.values() if step.stage == "summarize")
    assert labels(plan, needed_steps(plan, cached - {summary.key})) == {
        "summarize",
        "prepare digits",
        "brew case 0 restart 0",
        "brew case 0 restart 1",
    }


def test_more_than_the_cluster_has_is_refused_before_anything_runs(plan_tiny: Planner) -> None:
    steps = list(plan_tiny({}).steps.values())
    machines = [{"CPU": 1.0, "memory": 8e9}, {"CPU": 4.0, "memory": 1e9, "spot": 1.0}]
    check_resources(steps, Runtimes(cpus=4, memory_gb=1, resources={"spot": 1}), machines)
    check_resources(steps, Runtimes(cpus=1, workers=5), machines)
    check_resources(steps, Runtimes(cpus=1, workers=8, min_workers=5), machines)
    for runtimes, message in (
        (
            Runtimes(cpus=5),
            "runtime.cpus: a step of stage .* takes 5 CPU, and the largest machine of the cluster has 4",
        ),
        (Runtimes(memory_gb=9), "runtime.memory_gb: .* takes 9e.09 memory, and the largest machine .* has 8e.09"),
        (Runtimes(gpus=0.5), "runtime.gpus: .* takes 0.5 GPU, and the largest machine of the cluster has 0"),
        (Runtimes(resources={"tpu": 1}), "runtime.resources.tpu: .* takes 1 tpu, and the largest machine .* has 0"),
        (Runtimes(stages={"brew": Runtime(cpus=5)}), "stage brew takes 5 CPU"),
        (Runtimes(cpus=4, memory_gb=8), "and no machine has all that at once"),
        (Runtimes(device="cuda"), "is cuda, and the cluster has no GPU"),
        (Runtimes(workers=6), "runtime.workers: .* takes 6 workers .* has room for 5; .* runtime.min_workers"),
        (
            Runtimes(workers=65),
            "runtime.workers: .* 65 workers, and its batches have 128 images; each worker needs two",
        ),
    ):
        with pytest.raises(InputError, match=message):
            check_resources(steps, runtimes, machines)


def test_where_machines_may_come_that_are_not_there_only_what_depends_on_them_is_refused(plan_tiny: Planner) -> None:
    steps, head = list(plan_tiny({}).steps.values()), [{"CPU": 0.0, "memory": 8e9}]
    check_resources(steps, Runtimes(device="cuda", cpus=96), head, growing=True)
    check_resources(steps, Runtimes(gpus=1), head, growing=True)
    check_resources(steps, Runtimes(), [*head, {"CPU": 4.0, "GPU": 1.0}], growing=True)
    with pytest.raises(InputError, match=r"runtime\.device .* is auto, and no machine with a GPU is up: .* Say cuda"):
        check_resources(steps, Runtimes(), head, growing=True)
    assert wants(Runtime(device="cuda"), "brew", gpus=False)["GPU"] == 1


def test_what_an_autoscaler_has_no_room_for_now_only_waits() -> None:
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.core.generated import autoscaler_pb2

    messages: Any = autoscaler_pb2

    def asked(gpus: float, up: list[Machine], coming: bool, together: bool = False) -> list[dict[str, float]]:
        """Five steps, or one of five workers, and two machines with one GPU each at most."""
        one = messages.ResourceRequest(resources_bundle={"CPU": 1, "GPU": gpus})
        wanted = [] if together else [messages.ResourceRequestByCount(request=one, count=5)]
        kind = NodeTypeConfig(
            name="gpu", resources={"CPU": 4, "GPU": 1}, min_worker_nodes=0, max_worker_nodes=2, launch_config_hash=""
        )
        told = ResourceDemandScheduler(None).schedule(  # type: ignore[no-untyped-call]
            SchedulingRequest(
                disable_launch_config_check=True,
                node_type_configs={"gpu": kind},
                resource_requests=wanted,
                gang_resource_requests=[messages.GangResourceRequest(requests=[one] * 5)] if together else [],
            )
        )
        state = messages.AutoscalingState(
            infeasible_resource_requests=told.infeasible_resource_requests,
            infeasible_gang_resource_requests=told.infeasible_gang_resource_requests,
        )
        assert state.infeasible_gang_resource_requests if together else len(state.infeasible_resource_requests) >= 3
        if coming:
            state.pending_instances.add(instance_type_name="gpu")
        return impossible(state, up)

    assert asked(1, [{"CPU": 0}], coming=True) == [], "the first two are about to come"
    assert asked(1, [{"CPU": 0}, {"CPU": 4, "GPU": 1}], coming=False) == []
    assert asked(2, [{"CPU": 0}, {"CPU": 4, "GPU": 1}], coming=False)[0] == {"CPU": 1, "GPU": 2}
    assert asked(1, [{"CPU": 0}], coming=False, together=True)[0] == {"CPU": 1, "GPU": 1}, "five, and two at most"
    assert asked(1, [{"CPU": 0}, {"CPU": 4, "GPU": 1}], coming=False, together=True) == [], "others may go"
    assert asked(2, [{"CPU": 0}, {"CPU": 4, "GPU": 1}], coming=False, together=True)[0] == {"CPU": 1, "GPU": 2}


def test_a_ray_of_our_own_does_not_grow(machines: list[Machine]) -> None:
    assert not may_grow()
    assert infeasible() == []


def test_time_left_counts_what_runs_at_the_same_time() -> None:
    machines = [{"CPU": 8.0, "GPU": 1.0, "memory": 4e9}] * 2
    assert at_once(Runtime(cpus=2), "prepare", machines) == 8
    assert at_once(Runtime(cpus=2), "brew", machines) == 2
    assert at_once(Runtime(memory_gb=2, device="cpu"), "brew", machines) == 4
    assert at_once(Runtime(workers=2), "retrain", machines) == 1
    assert at_once(Runtime(workers=2), "brew", machines) == 2


def test_only_what_computes_takes_a_gpu_where_there_is_one() -> None:
    assert wants(Runtime(), "brew", gpus=True)["GPU"] == 1
    assert "GPU" not in wants(Runtime(), "prepare", gpus=True)
    assert "GPU" not in wants(Runtime(), "brew", gpus=False)
    assert "GPU" not in wants(Runtime(device="cpu"), "brew", gpus=True)
    assert wants(Runtime(gpus=0.25), "brew", gpus=True)["GPU"] == 0.25
    assert ray_options(wants(Runtime(gpus=0.25, resources={"spot": 1}), "brew", gpus=True)) == {
        "num_cpus": 1,
        "num_gpus": 0.25,
        "memory": 0,
        "resources": {"spot": 1},
        "scheduling_strategy": "DEFAULT",
    }
