"""What a stage is, and what it is given to run with.

A stage is a module of this package with three names:

    VERSION = 1                     raised by hand when its output changes for the same params and inputs
    class Params(Config)            identity only: what changes the output; nothing about machines
    def run(params, inputs, out, ctx) -> Metrics

`run` reads only the folders in `inputs` (one a role), writes only under `out`, draws every random number from
`ctx.rng(role)`, reports through `ctx.progress` and keeps what it needs for resuming in `ctx.checkpoint`. It knows
nothing of Ray, of the store or of keys, so it runs the same in a test, under `brewline step` and on a cluster.

Stage modules import torch inside `run`, so that planning an experiment stays quick.
"""

import copy
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, model_validator

from stages.config import Config, InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Found = TypeVar("Found")

Metrics = dict[str, Any]
"""What a stage returns: a small JSON-ready dict, kept in the step's manifest."""

Saved = tuple[dict[str, "torch.Tensor"], dict[str, Any]]
"""What a checkpoint holds: named tensors, and JSON-ready facts."""

Report = Callable[[int, int, dict[str, float]], None]
"""Where progress goes: (done, total, figures)."""

STAGES = (
    *("shard", "prepare", "pretrain", "case", "corrupt", "brew", "unroll", "adapt", "cancel"),
    *("select", "export", "retrain", "evaluate", "assess", "summarize", "tally"),
)
"""Every stage, in the order of the pipeline. Each is the module `stages.<name>`. MetaPoison has `unroll` and `adapt`
where others have `brew`; attacks without targets `corrupt`, `cancel`, `assess` and `tally` where others have `case`,
`brew`, `evaluate` and `summarize`."""


@cache
def load_stage(name: str) -> ModuleType:
    """The module of a stage, with `VERSION`, `Params` and `run`."""
    if name not in STAGES:
        raise KeyError(f"no stage is called {name!r}; the stages are {', '.join(STAGES)}")
    return import_module(f"stages.{name}")


class Runtime(Config):
    """What a step needs to run, and nothing that changes what it computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU where there is one."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores a step takes; torch uses as many threads."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs a step takes, fractions allowed; null is 1 for a step that computes where the cluster has any, else 0."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory a step takes, in GB; null is not counted."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Custom resources of a Ray cluster that a step takes, as in `{spot: 1}`."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Workers that train one surrogate or victim together; each takes the CPUs, GPUs and memory above. The batch and
    the learning rate stay those of the training: results are the same for any number, up to rounding."""
    min_workers: Annotated[int, Field(ge=1)] | None = None
    """With how few workers a training goes on while machines are missing; null is `workers`, so that it waits."""
    micro_batch: Annotated[int, Field(gt=0)] = 512
    """Images that pass through a network at once where the result does not depend on it: it bounds the memory."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30
    """How often a long step keeps what it needs to resume: what a lost machine costs at most. 0 is at every batch."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers is {self.min_workers}, but there are {self.workers} workers; lower it")
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus is {self.gpus:g}; Ray gives parts of one GPU, or whole ones")
        if self.workers > 1 and self.gpus is not None and self.gpus % 1:
            raise ValueError(
                f"gpus is {self.gpus:g} for each of {self.workers} workers, which cannot share a GPU; give each a "
                "whole one, or none"
            )
        own = {"CPU": "cpus", "GPU": "gpus", "memory": "memory_gb"}
        for name in own.keys() & self.resources.keys():
            raise ValueError(f"resources names {name}, which has a field of its own: {own[name]}")
        return self


class Checkpoint:
    """A place where a long step keeps what it needs to resume: named tensors and a little JSON, in one file.

    Writing is atomic: a reader sees the last whole checkpoint or none. One that a crash of the machine left cut short
    counts as none. safetensors, so nothing is unpickled.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.safetensors"

    def load(self) -> Saved | None:
        """The last checkpoint, or None where there is none."""
        return _read(self.file, lambda file: ({name: file.get_tensor(name) for name in file.keys()}, _facts(file)))  # noqa: SIM118

    def facts(self) -> dict[str, Any] | None:
        """The facts alone of the last checkpoint, or None."""
        return facts_of(self.file)

    def save(self, tensors: "Mapping[str, torch.Tensor]", facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint by these tensors and JSON-ready facts."""
        from safetensors.torch import save_file

        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"facts": json.dumps(dict(facts))})
        temporary.replace(self.file)


def facts_of(checkpoint: Path) -> dict[str, Any] | None:
    """The facts of the checkpoint in a file, or None where there is no whole one."""
    return _read(checkpoint, _facts)


def _read(checkpoint: Path, what: Callable[[Any], Found]) -> Found | None:
    from safetensors import SafetensorError, safe_open

    if not checkpoint.exists():
        return None
    try:
        with safe_open(checkpoint, framework="pt") as file:
            return what(file)
    except SafetensorError as error:
        log.warning("%s cannot be read (%s): the step begins anew", checkpoint, error)
        return None


def _facts(file: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((file.metadata() or {}).get("facts", "{}"))
    return facts


SAVING_PART = 0.05
"""The part of a step's time that saving checkpoints may take: where one takes long, they come less often."""


@dataclass(frozen=True)
class Worker:
    """One of the `count` workers that do a step together. The one of rank 0 alone reports, and keeps checkpoints and
    the output; what a stage returns and leaves is the same on all."""

    rank: int = 0
    count: int = 1


ONLY = Worker()
"""The worker of a step that has no others."""


def derive_seed(seed: int, *role: object) -> int:
    """A 63-bit seed, a pure function of `seed` and the role's parts, the same on every machine."""
    text = json.dumps([seed, *[str(part) for part in role]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Context:
    """What a running stage is given besides its params and inputs."""

    def __init__(
        self,
        seed: int,
        runtime: Runtime,
        checkpoint: Checkpoint,
        report: Report | None = None,
        *,
        worker: Worker = ONLY,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        """hurry: whether this machine is about to be taken away; asked often, so it answers at once."""
        self.seed = seed
        self.runtime = runtime
        self.checkpoint = checkpoint
        self.worker = worker
        self.hurry = hurry
        self._report = report
        self._hurried = False
        self._saved, self._cost = time.monotonic(), 0.0

    def rng(self, *role: object) -> np.random.Generator:
        """A generator that is a pure function of the step's seed and the role."""
        return np.random.default_rng(derive_seed(self.seed, *role))

    def torch_rng(self, *role: object) -> "torch.Generator":
        """The same for torch, always on the CPU: what is drawn does not depend on the device."""
        import torch

        return torch.Generator().manual_seed(derive_seed(self.seed, *role))

    def seeded(self, seed: int) -> Self:
        """The same context, but for what it draws."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Say how far the stage is (`done` of `total`, in the stage's own unit), with its current figures."""
        if self._report is not None and self.worker.rank == 0:
            self._report(done, total, metrics)

    def save_due(self) -> bool:
        """Whether to `save` now: every `runtime.checkpoint_seconds`, and once when the machine is about to go."""
        if self.worker.rank != 0:
            return False
        if not self._hurried and self.hurry():
            self._hurried = True
            return True
        seconds = self.runtime.checkpoint_seconds
        return seconds == 0 or time.monotonic() - self._saved >= max(seconds, self._cost / SAVING_PART)

    def save(self, tensors: "Mapping[str, torch.Tensor]", facts: Mapping[str, Any]) -> None:
        """Replace the checkpoint, as `Checkpoint.save` does."""
        started = time.monotonic()
        self.checkpoint.save(tensors, facts)
        self._saved = time.monotonic()
        self._cost = self._saved - started

    @property
    def device(self) -> "torch.device":
        """The device to compute on. Raises InputError where it is to be a GPU and there is none."""
        import torch

        name = self.runtime.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and not torch.cuda.is_available():
            raise InputError("runtime.device is cuda, but torch sees no GPU here; use auto or cpu")
        # Of several GPUs that a process sees, the current one is its own: whoever starts workers makes it so.
        return torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)


def numbered(inputs: Mapping[str, Path], role: str) -> list[Path]:
    """The input folders `role.0`, `role.1`, …, in order."""
    found: list[Path] = []
    while (name := f"{role}.{len(found)}") in inputs:
        found.append(inputs[name])
    if not found:
        raise InputError(f"the stage needs inputs {role}.0, {role}.1, …; none was given")
    return found
