"""What a step of each stage takes of a machine, and whether a cluster has it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.experiment import Runtimes
from pipeline.step import Step
from stages.config import InputError
from stages.stage import Runtime

RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""A task's option -> the resource of a machine, as Ray calls them."""
FIELDS = {"num_cpus": "cpus", "num_gpus": "gpus", "memory": "memory_gb"}
"""A task's option -> the field of the runtime that it comes from."""


def ray_options(runtime: Runtime, stage: str, resources: Mapping[str, float]) -> dict[str, Any]:
    """What a step of a stage takes of a node, in Ray's terms."""
    computes = stage in ("pretrain", "case", "brew", "retrain", "evaluate")
    automatic = 1 if computes and resources.get("GPU", 0) > 0 and runtime.device != "cpu" else 0
    options = {"num_cpus": runtime.cpus, "num_gpus": automatic if runtime.gpus is None else runtime.gpus}
    if runtime.memory_gb is not None:
        options["memory"] = int(runtime.memory_gb * 1e9)
    return options


def at_once(runtime: Runtime, stage: str, resources: Mapping[str, float]) -> float:
    """How many steps of a stage the cluster runs at the same time."""
    options = ray_options(runtime, stage, resources)
    return max(1, min(resources.get(RESOURCES[option], 0) / wanted for option, wanted in options.items() if wanted))


def check_resources(
    steps: Iterable[Step], runtimes: Runtimes, resources: Mapping[str, float], machines: Sequence[Mapping[str, float]]
) -> None:
    """Raise InputError where a step asks for more than any machine of the cluster has: it would wait for ever."""
    for stage in {step.stage for step in steps}:
        runtime = runtimes.of(stage)
        if runtime.device == "cuda" and not resources.get("GPU"):
            raise InputError(f"runtime.device of stage {stage} is cuda, and the cluster has no GPU; use auto or cpu")
        options = ray_options(runtime, stage, resources)
        for option, wanted in options.items():
            resource, field = RESOURCES[option], FIELDS[option]
            most = max(machine.get(resource, 0) for machine in machines)
            if wanted > most:
                raise InputError(
                    f"runtime.{field}: a step of stage {stage} takes {wanted:g} {resource}, and the largest machine of "
                    f"the cluster has {most:g}; ask for less, or run on larger machines"
                )
        if not any(
            all(machine.get(RESOURCES[o], 0) >= wanted for o, wanted in options.items()) for machine in machines
        ):
            raise InputError(f"runtime: a step of stage {stage} takes {options}, and no machine has all that at once")
