"""One step by several workers: a Ray Train group that starts anew, from the store's checkpoint, when it loses one.

Ray Train places the workers, connects them (gloo, or nccl on GPUs), notices what dies and tells of preemption; the step
itself is `execute`, on every worker at once. Nothing lies in Ray Train's own storage: a group that is lost with its
leader is no more than a step that runs again.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

from pipeline.checkpoints import StoredCheckpoint
from pipeline.draining import group_draining
from pipeline.execute import InputGone, Place, committed, execute
from pipeline.step import Ref, Step
from pipeline.store import Manifest, StoreError, open_store
from stages.config import InputError
from stages.stage import Report, Runtime, Worker

LOSSES = 5
"""Times in a row that a group may lose a worker without a checkpoint in between before the step counts as failed."""


class GroupFailed(RuntimeError):
    """The step fails on its workers, or loses them without getting on. The message says which and why."""


@dataclass(frozen=True)
class _Fault:
    """Why a worker could not go on, as data: not every exception can be pickled.

    certain: it is the step's own fault; else it may be that another worker was lost.
    """

    why: str
    certain: bool
    bad_input: bool = False
    store: bool = False
    away: bool = False
    gone: tuple[Ref, str, bool] | None = None

    def error(self) -> Exception:
        """What `execute` would have raised, as far as callers tell errors apart."""
        if self.gone is not None:
            return InputGone(*self.gone)
        error = (InputError if self.bad_input else StoreError if self.store else GroupFailed)(self.why)
        if isinstance(error, StoreError):
            error.away = self.away
        return error


class _Stopped(Exception):
    """Carries a fault from a worker to the leader."""

    def __init__(self, fault: _Fault) -> None:
        super().__init__(fault)
        self.fault = fault


def run_group(
    step: Step,
    url: str,
    runtime: Runtime,
    wanted: Mapping[str, float],
    make_report: Callable[[], Report],
    again: bool = False,
) -> Manifest:
    """Run a step with `runtime.workers` workers and commit its output; returns and raises as `execute` does.

    url: of the store, which every machine of the cluster opens.  wanted: what a worker takes of its machine, by
    resource.  make_report: called on a worker, gives where its progress goes. To be called in a Ray task.
    """
    store, losses, last = open_store(url), 0, None
    while True:
        if not again and (done := committed(store, step)) is not None:
            store.clear_scratch(step.key)
            return done
        fault = _fit(partial(_train, step, url, runtime, make_report, again), step.key, runtime, wanted)
        if isinstance(fault, Manifest):
            return fault
        if fault.certain:
            raise fault.error()
        checkpoint = StoredCheckpoint(store, step.key).facts()
        losses, last = losses + 1 if checkpoint == last else 1, checkpoint
        if losses == LOSSES:
            raise GroupFailed(f"it lost a worker {LOSSES} times without getting on; was memory short? {fault.why}")


def _fit(train: Callable[[], Manifest], key: str, runtime: Runtime, wanted: Mapping[str, float]) -> Manifest | _Fault:
    """Run a group whose workers call `train` until it is done or stops."""
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from pipeline.train_release import Release, release_ownerless

    release_ownerless()  # an attempt before this one may have been lost with its leader
    # The types that Ray gives them are those of Ray Train v1.
    trainer_of: Any = TorchTrainer
    scaling_of: Any = ScalingConfig
    run_of: Any = RunConfig
    least, gpu = runtime.min_workers or runtime.workers, wanted.get("GPU", 0) > 0
    with tempfile.TemporaryDirectory(prefix="brewline-train-") as folder:
        trainer = trainer_of(
            train,
            scaling_config=scaling_of(
                num_workers=runtime.workers if least == runtime.workers else (least, runtime.workers),
                use_gpu=gpu,
                resources_per_worker=dict(wanted),
            ),
            torch_config=TorchConfig(backend="nccl" if gpu and runtime.device != "cpu" else "gloo"),
            # Preempted workers Ray Train replaces by itself; of others the step's checkpoint tells whether it gets on.
            run_config=run_of(
                name=f"{key}-{uuid4().hex}",
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0),
                callbacks=[Release()],
            ),
        )
        try:
            manifest: Manifest = trainer.fit().return_value
        except WorkerGroupError as error:
            return _fault(error.worker_failures)
        except ControllerError as error:
            # A worker that dies while the group starts is an error of the controller's, who does not try again.
            return _Fault(str(error), certain=not isinstance(error.controller_failure, RayError))
        except RayError as error:
            return _Fault(f"Ray Train's controller: {error}", certain=False)
    return manifest


def _fault(failures: Mapping[int, Exception]) -> _Fault:
    """The one fault that counts of all workers': one that is certain, if there is any."""
    ranked = sorted(failures.items())
    faults = [error.fault for _, error in ranked if isinstance(error, _Stopped)]
    dead = [f"worker {rank}: {error}" for rank, error in ranked if not isinstance(error, _Stopped)]
    lost = _Fault("; ".join([*dead, *(fault.why for fault in faults)]), certain=False)
    return next((fault for fault in faults if fault.certain), lost)


def _train(step: Step, url: str, runtime: Runtime, make_report: Callable[[], Report], again: bool) -> Manifest:
    """What each worker of the group runs."""
    from ray.exceptions import RayError
    from ray.train import get_context
    from ray.train.collective import barrier
    from torch.distributed import DistError

    worker = Worker(get_context().get_world_rank(), get_context().get_world_size())
    try:
        place = Place(worker, barrier, group_draining)
        return execute(step, open_store(url), runtime, make_report(), again, place)
    except InputGone as gone:
        raise _Stopped(_Fault(gone.why, certain=True, gone=(gone.ref, gone.why, gone.absent))) from None
    except Exception as error:  # noqa: BLE001
        # What gloo and autograd raise when a peer is gone is a bare RuntimeError.
        certain = type(error) is not RuntimeError and not isinstance(error, (RayError, DistError))
        store, bad_input = isinstance(error, StoreError), isinstance(error, InputError)
        name = "" if store or bad_input else f"{type(error).__name__}: "
        away = isinstance(error, StoreError) and error.away
        raise _Stopped(_Fault(f"{name}{error}", certain, bad_input, store, away)) from None
