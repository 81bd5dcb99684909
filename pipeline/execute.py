"""One step, from its inputs in the store to its commit, in this process and without Ray."""

import logging
import os
import platform
import shutil
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from pipeline.checkpoints import StoredCheckpoint
from pipeline.step import Ref, Step
from pipeline.store import Blob, DamagedBlob, Manifest, Store, StoreError, new_write_id
from pipeline.store.files import is_full
from stages.config import Config
from stages.stage import ONLY, Checkpoint, Context, Metrics, Report, Runtime, Worker, load_stage

log = logging.getLogger(__name__)

LOG = "log.txt"
"""A step's log, in its scratch folder; it stays there when the step fails."""


class InputGone(RuntimeError):
    """An input is not in the store, or parts of it are missing or damaged: the step that made it must run again."""

    def __init__(self, ref: Ref, why: str, absent: bool = False) -> None:
        super().__init__(ref, why, absent)
        self.ref, self.why, self.absent = ref, why, absent


@dataclass(frozen=True)
class Place:
    """Where a step runs: as which worker of how many, what waits for the others, and what tells that the machine is
    about to go."""

    worker: Worker = ONLY
    meet: Callable[[], object] = lambda: None
    hurry: Callable[[], bool] = lambda: False


ALONE = Place()


def committed(store: Store, step: Step) -> Manifest | None:
    """The manifest of a step that is done and whole (every blob is there, of the right size), else None.

    Raises RuntimeError where the store has something else under this key.
    """
    manifest = store.read(step.stage, step.key)
    return manifest if manifest is not None and is_whole(step, manifest, store.missing(manifest)) else None


def is_whole(step: Step, manifest: Manifest, missing: Sequence[Blob]) -> bool:
    """Whether a step's manifest counts, of whose blobs some are `missing`. Raises RuntimeError if it is another's."""
    if (manifest.params, manifest.inputs) != (step.made_of["params"], step.made_of["inputs"]):
        raise RuntimeError(f"the store's {step.stage} {step.key} is made of other params or inputs than {step.label}")
    if missing:
        log.warning("%s: output %s is missing or cut short; it counts as not done", step.label, missing[0].name)
    return not missing


def execute(
    step: Step,
    store: Store,
    runtime: Runtime,
    report: Report | None = None,
    again: bool = False,
    place: Place = ALONE,
    looked: bool = False,
) -> Manifest:
    """Run a step and commit its output, unless that is done. Running it twice is safe: one commit counts.

    again: run it though it seems done, because its output turned out damaged.  looked: the store was asked just now,
    and it is not done.  place: several workers do a step that is
    not done together by calling this at once; that of rank 0 commits, and the others give its manifest without blobs.
    Raises InputGone where an input must run again first, and whatever the stage raises; the log has the traceback.
    """
    if not (looked or again) and place.worker.count == 1 and (done := committed(store, step)) is not None:
        return done
    write_id = new_write_id()
    scratch = store.scratch(step.key)
    attempt = scratch / write_id
    try:
        with (scratch / LOG).open("a") as file, redirect_stdout(file), redirect_stderr(file):
            manifest = _attempt(step, store, runtime, attempt, write_id, report, again, place)
    except InputGone:
        raise
    except Exception as error:
        # Another attempt that commits first clears the scratch folder, and this one's files with it.
        theirs = committed(store, step) if place.worker.count == 1 else None
        if theirs is None or (again and store.verify(theirs)):
            if is_full(error):
                raise StoreError(
                    f"the disk of {store.url} is full ({error}): free some space and run again; nothing was lost"
                ) from error
            raise
        manifest = theirs
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
    store.clear_scratch(step.key)
    return manifest


def _attempt(
    step: Step,
    store: Store,
    runtime: Runtime,
    attempt: Path,
    write_id: str,
    report: Report | None,
    again: bool,
    place: Place,
) -> Manifest:
    try:
        inputs = {role: _fetch(store, ref, attempt / "inputs" / role) for role, ref in step.inputs.items()}
        place.meet()  # a worker may fetch for longer than the others would wait for it in the stage
        started = datetime.now(UTC)
        with StoredCheckpoint(store, step.key, place.hurry) as checkpoint:
            metrics = run_stage(step.stage, step.params, inputs, attempt / "out", runtime, checkpoint, report, place)
        provenance = {
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(checkpoint.seconds, 3),
            "host": socket.gethostname(),
            "hardware": hardware(),
            "versions": versions(),
            "cpus": runtime.cpus,
            "gpus": runtime.gpus,
            "workers": place.worker.count,
        }
        draft = Manifest(
            **step.made_of, key=step.key, write_id=write_id, metrics=metrics, provenance=provenance, blobs=()
        )
        manifest = store.commit(attempt / "out", draft, again) if place.worker.rank == 0 else draft
        place.meet()  # who is done clears the scratch folder, which workers of one machine share
        return manifest
    except Exception:
        sys.stderr.write(traceback.format_exc())  # in one piece: workers of a group share the log
        raise


def run_stage(
    stage: str,
    params: Config,
    inputs: Mapping[str, Path],
    out: Path,
    runtime: Runtime,
    checkpoint: Checkpoint,
    report: Report | None = None,
    place: Place = ALONE,
) -> Metrics:
    """Run a stage on folders."""
    import torch

    torch.set_num_threads(max(1, int(runtime.cpus)))
    out.mkdir(parents=True, exist_ok=True)
    seed = getattr(params, "seed", 0)
    context = Context(seed, runtime, checkpoint, report, worker=place.worker, hurry=place.hurry)
    metrics: Metrics = load_stage(stage).run(params, inputs, out, context)
    return metrics


@cache
def hardware() -> str:
    """The processor, its cores, and the GPU where torch sees one."""
    import torch

    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{gpu}"


@cache
def versions() -> dict[str, str]:
    """What this process computes with: Python, the packages that matter to numbers, and brewline's own commit."""
    packages = (
        "brewline",
        "ffcv",
        "numba",
        "numpy",
        "pillow",
        "pyarrow",
        "ray",
        "scikit-learn",
        "torch",
        "torchvision",
    )
    found = {name: metadata.version(name) for name in packages if _installed(name)}
    return {"python": platform.python_version(), "machine": platform.machine(), **found, **_commit()}


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> dict[str, str]:
    """The commit of a working copy of brewline; nothing for an installed package."""
    import subprocess

    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return {}
    answer = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
    )
    return {"commit": answer.stdout.strip()} if answer.returncode == 0 else {}


def _fetch(store: Store, ref: Ref, folder: Path) -> Path:
    manifest = store.read(*ref)
    if manifest is None:
        raise InputGone(ref, "is not in the store", absent=True)
    try:
        store.fetch(manifest, folder)
    except DamagedBlob as damage:
        raise InputGone(ref, f"is damaged: {damage.name} {damage.problem}") from damage
    return folder
