"""What a step of each stage takes of a machine, and whether a cluster has it, or can get it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.experiment import Runtimes
from pipeline.step import Step
from stages.config import InputError
from stages.stage import Runtime

OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""A resource of a machine, as Ray calls it -> a task's option. Others are custom."""
FIELDS = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}
"""A resource -> the field of the runtime that it comes from."""
COMPUTE = ("pretrain", "case", "brew", "retrain", "evaluate")
"""Stages that use a GPU where there is one."""
TRAINING = ("pretrain", "retrain")
"""Stages that several workers can do together."""

MANY = 1000
"""Machines of a kind that are counted where an autoscaler has no bound, or a higher one."""

Machine = Mapping[str, float]
"""What one machine has, by resource."""


def wants(runtime: Runtime, stage: str, gpus: bool) -> dict[str, float]:
    """What a step of a stage (a worker of it, where several train together) takes of a machine, by resource.

    gpus: whether the cluster has any.
    """
    automatic = 1 if stage in COMPUTE and gpus and runtime.device != "cpu" else 0
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
    """What a task takes of a node, as the options of a Ray task."""
    custom = {name: amount for name, amount in wanted.items() if name not in OPTIONS}
    return {option: wanted.get(name, 0) for name, option in OPTIONS.items()} | {"resources": custom}


def at_once(runtime: Runtime, stage: str, machines: Sequence[Machine]) -> int:
    """How many steps of a stage the machines run at the same time, at least one."""
    wanted = wants(runtime, stage, has_gpus(machines))
    return max(1, sum(_slots(machine, wanted) for machine in machines) // workers_of(runtime, stage))


def machines() -> list[Machine]:
    """What each machine of the connected cluster has: those that are up, and those that its autoscaler may start."""
    import ray
    from ray._private.state import state

    up: list[Machine] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    for group in [] if config is None else config.node_group_configs:
        most = group.max_count if group.max_count >= 0 else MANY
        up += [dict(group.resources)] * min(most, MANY)
    return up


def check_resources(steps: Iterable[Step], runtimes: Runtimes, machines: Sequence[Machine]) -> None:
    """Raise InputError where a step asks for more than any machine of the cluster has: it would wait for ever."""
    gpus = has_gpus(machines)
    for stage in {step.stage for step in steps}:
        runtime = runtimes.of(stage)
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


def has_gpus(machines: Iterable[Machine]) -> bool:
    """Whether any machine has a GPU."""
    return any(machine.get("GPU", 0) > 0 for machine in machines)


def _slots(machine: Machine, wanted: Mapping[str, float]) -> int:
    return int(min(machine.get(name, 0) / amount for name, amount in wanted.items()))
