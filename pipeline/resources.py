"""What a step of each stage takes of a machine, and whether a cluster has it, or can get it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from pipeline.experiment import Runtimes
from pipeline.step import Step
from stages.config import InputError
from stages.stage import Runtime

OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""A resource of a machine, as Ray calls it -> a task's option. Others are custom."""
FIELDS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}
"""A resource -> the field of the runtime that it comes from."""
COMPUTE = ("pretrain", "case", "corrupt", "brew", "unroll", "adapt", "cancel", "retrain", "evaluate", "assess")
"""Stages that use a GPU where there is one."""
TRAINING = ("pretrain", "retrain")
"""Stages that several workers can do together."""

Machine = Mapping[str, float]
"""What one machine has, by resource."""
Connect = Callable[[str | None], AbstractContextManager[list[Machine]]]
"""Connects to the Ray cluster at an address (null: one of our own) and gives its machines."""


def wants(runtime: Runtime, stage: str, gpus: bool) -> dict[str, float]:
    """What a step of a stage (a worker of it, where several train together) takes of a machine, by resource.

    gpus: whether the cluster has any.
    """
    automatic = 1 if stage in COMPUTE and (runtime.device == "cuda" or (gpus and runtime.device == "auto")) else 0
    memory = 0 if runtime.memory_gb is None else int(runtime.memory_gb * 1e9)
    found = {
        "CPU": runtime.cpus,
        "GPU": automatic if runtime.gpus is None else runtime.gpus,
        "memory": memory,
        **runtime.resources,
    }
    return {name: amount for name, amount in found.items() if amount}


def workers_of(runtime: Runtime, stage: str) -> int:
    """How many workers do a step of the stage together."""
    return runtime.workers if stage in TRAINING else 1


def ray_options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """What a task takes of a node, as the options of a Ray task; it runs on any, wherever its driver runs."""
    custom = {name: amount for name, amount in wanted.items() if name not in OPTIONS}
    amounts = {option: wanted.get(name, 0) for name, option in OPTIONS.items()}
    return {**amounts, "resources": custom, "scheduling_strategy": "DEFAULT"}


def at_once(runtime: Runtime, stage: str, machines: Sequence[Machine]) -> int:
    """How many steps of a stage the machines run at the same time, at least one."""
    return places(wants(runtime, stage, has_gpus(machines)), runtime, stage, machines)


def places(wanted: Mapping[str, float], runtime: Runtime, stage: str, machines: Sequence[Machine]) -> int:
    """How many steps of a stage that take so much (each worker of them) have a place at the same time, at least one."""
    return max(1, sum(_slots(machine, wanted) for machine in machines) // workers_of(runtime, stage))


def machines() -> list[Machine]:
    """What each machine of the connected cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def may_grow() -> bool:
    """Whether an autoscaler may bring the connected cluster machines of kinds that are not there yet.

    It cannot where the monitor on the head was given no kinds of machines. On Kubernetes it runs elsewhere.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    on_head = NodeAffinitySchedulingStrategy(heads[0]["NodeID"], soft=False)
    look = ray.remote(num_cpus=0)(_monitors).options(scheduling_strategy=on_head)
    found: list[str] = ray.get(look.remote(ray.get_runtime_context().gcs_address))
    return not found or any("--autoscaling-config=" in command for command in found)


def _monitors(gcs_address: str) -> list[str]:
    """The command lines of a cluster's monitors on this machine."""
    commands = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            commands.append(file.read_text().replace("\0", " "))
    return [command for command in commands if "monitor.py" in command and f"--gcs-address={gcs_address} " in command]


def infeasible() -> list[dict[str, float]]:
    """What was asked for that no kind of machine of the autoscaler seems to have (Ray's second one tells)."""
    import ray
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2

    library: Any = _raylet
    messages: Any = autoscaler_pb2
    reply = messages.GetClusterStatusReply()
    reply.ParseFromString(library.GcsClient(ray.get_runtime_context().gcs_address).get_cluster_status())
    return impossible(reply.autoscaling_state, machines())


def impossible(state: Any, machines: Sequence[Machine]) -> list[dict[str, float]]:
    """Of what the autoscaler's state calls infeasible, what no machine has and none that is about to come could have.

    Ray also calls so what its largest cluster has no room for at the same time: that has to wait, no more.
    """
    if state.pending_instance_requests or state.pending_instances or state.failed_instance_requests:
        return []
    gangs = [request for gang in state.infeasible_gang_resource_requests for request in gang.requests]
    asked = [dict(request.resources_bundle) for request in [*state.infeasible_resource_requests, *gangs]]
    return [wanted for wanted in asked if wanted and not any(_slots(machine, wanted) for machine in machines)]


def check_resources(
    steps: Iterable[Step], runtimes: Runtimes, machines: Sequence[Machine], growing: bool = False
) -> None:
    """Raise InputError where a step asks for more than any machine of the cluster has: it would wait for ever.

    growing: machines of other kinds may come, so that only what depends on them must be said beforehand.
    """
    steps, gpus = list(steps), has_gpus(machines)
    for step in steps:
        _check_batch(step, workers_of(runtimes.of(step.stage), step.stage))
    for stage in {step.stage for step in steps}:
        runtime = runtimes.of(stage)
        if growing:
            if not gpus and stage in COMPUTE and runtime.device == "auto" and runtime.gpus is None:
                raise InputError(
                    f"runtime.device of stage {stage} is auto, and no machine with a GPU is up: an autoscaler may "
                    "bring one, or not. Say cuda, so that it must, or cpu: --set runtime.device=cuda"
                )
            continue
        if runtime.device == "cuda" and not gpus:
            raise InputError(f"runtime.device of stage {stage} is cuda, and the cluster has no GPU; use auto or cpu")
        wanted = wants(runtime, stage, gpus)
        for name, amount in wanted.items():
            most = max(machine.get(name, 0) for machine in machines)
            if amount > most:
                field = FIELDS.get(name, f"resources.{name}")
                raise InputError(
                    f"runtime.{field}: a step of stage {stage} takes {amount:g} {name}, "
                    f"and the largest machine of the cluster has {most:g}; ask for less, or run on larger machines"
                )
        slots, workers = sum(_slots(machine, wanted) for machine in machines), workers_of(runtime, stage)
        if slots == 0:
            raise InputError(f"runtime: a step of stage {stage} takes {wanted}, and no machine has all that at once")
        if slots < min(workers, runtime.min_workers or workers):
            raise InputError(
                f"runtime.workers: a step of stage {stage} takes {workers} workers of {wanted} each, and the cluster "
                f"has room for {slots}; ask for fewer, or set runtime.min_workers"
            )


def _check_batch(step: Step, workers: int) -> None:
    if workers == 1:
        return
    params: Any = step.params  # of a stage that trains: others have one worker
    images = params.training.batch_size
    if images < 2 * workers:
        raise InputError(
            f"runtime.workers: a step of stage {step.stage} takes {workers} workers, and its batches have {images} "
            "images; each worker needs two, so ask for fewer workers, or set a larger training.batch_size"
        )


def has_gpus(machines: Iterable[Machine]) -> bool:
    """Whether any machine has a GPU."""
    return any(machine.get("GPU", 0) > 0 for machine in machines)


def _slots(machine: Machine, wanted: Mapping[str, float]) -> int:
    return int(min(machine.get(name, 0) / amount for name, amount in wanted.items()))
