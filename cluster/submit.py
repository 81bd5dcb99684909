"""The command `brewline submit`: hands a run over to a cluster as a Ray job, so that it outlives this machine.

The experiment is checked here first, and its file is all that travels. The job is `brewline run … --address auto` on
the head; whatever becomes of it, submitting the same again goes on from what the store has.
"""

import hashlib
import json
import logging
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import ExperimentArgument, Settings
from pipeline.cli_store import DEFAULT_STORE, FAILED, StoreOption
from pipeline.experiment import Experiment, prepare_experiments
from pipeline.experiment_file import load_experiments, named_experiments
from pipeline.plan import plan
from pipeline.step import canonical
from pipeline.store import open_store
from pipeline.store.local import LocalStore
from stages.config import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
REQUEST_SECONDS = 10
LOST_SECONDS = 300
"""For how long a head that no longer answers is asked again while its job is followed."""


def submit(
    experiment: ExperimentArgument,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The head's jobs server: http://HEAD:8265.")
    ],
    settings: Settings = [],  # noqa: B006
    store: StoreOption = DEFAULT_STORE,
    shared: Annotated[
        bool, typer.Option("--shared", help="The store is a folder that every machine of the cluster mounts.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Show the job's log and end as it ends.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="End standard output with one line of JSON.")] = False,
) -> None:
    """Hand a run over to a cluster, as a Ray job. The same again while it runs joins it; afterwards it resumes."""
    variants = load_experiments(experiment, settings)
    made = plan(prepare_experiments(variants, absent_ok=True))
    _check_store(store, shared)
    client = _client(address)
    name = f"{made.name}-{_digest(variants, store)}"
    entrypoint = _entrypoint(experiment, settings, store, as_json)
    job, joined = _submitted(client, name, experiment, entrypoint)
    here = shlex.quote(address)
    print(
        f"{'this run is at work already, as' if joined else 'submitted'} job {job}\n"
        f"  follow: ray job logs --follow --address {here} {job}\n"
        f"  stop:   ray job stop --address {here} {job}\n"
        f"  state:  brewline status --store {shlex.quote(store)}",
        file=sys.stderr,
    )
    if follow:
        raise typer.Exit(_follow(client, job))
    if as_json:
        print(json.dumps({"job": job, "address": address, "store": store, "joined": joined}))


def _check_store(store: str, shared: bool) -> None:
    """Raise InputError for a store that the cluster's machines would not share."""
    opened = open_store(store)
    if not isinstance(opened, LocalStore):
        return
    if not shared:
        raise InputError(
            f"--store {store} is a folder, and each machine of a cluster has its own: steps would not find each "
            "other's outputs. Give --store s3://bucket/prefix, or add --shared if all machines mount this very folder"
        )
    if not Path(store).is_absolute():
        raise InputError(f"--store {store}: the cluster knows nothing of this working folder; give the whole path")


def _client(address: str) -> "JobSubmissionClient":
    """A client of the jobs server at `address`. Raises InputError where there is none."""
    import requests

    if not address.startswith(("http://", "https://")):
        raise InputError(f"--address {address}: expected the jobs server of the head, as in http://10.0.0.1:8265")
    # Either would win over the address that was given.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise InputError(
            "submit needs Ray's jobs client: in brewline's checkout, pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    logging.disable(logging.INFO)  # Ray tells of each package and web socket
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        # Ray's client has no time limit of its own: what accepts a connection and says nothing would hold it for ever.
        requests.get(f"{address.rstrip('/')}/api/version", timeout=REQUEST_SECONDS)
        return JobSubmissionClient(address)
    except (requests.RequestException, ConnectionError, RuntimeError, AuthenticationError) as error:
        raise InputError(
            f"--address {address}: no jobs server lets us in ({error}). Does the head run with `ray[default]` and "
            "--dashboard-host, does the port reach it (kubectl port-forward, ray dashboard, ssh -L), and does it ask "
            "for a token (then set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN)?"
        ) from error


def _digest(variants: dict[str, Experiment], store: str) -> str:
    """What makes two submissions the same: the store, and the experiment with every default but its runtime."""
    asked = {
        variant: experiment.model_dump(mode="json", exclude={"runtime"}) for variant, experiment in variants.items()
    }
    return hashlib.sha256(canonical({"experiments": asked, "store": store})).hexdigest()[:8]


def _entrypoint(experiment: str, settings: list[str], store: str, as_json: bool) -> str:
    """The job's command."""
    words = ["brewline", "run", experiment if experiment in named_experiments() else Path(experiment).name]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--store", store, "--address", "auto", *(["--json"] if as_json else [])]
    return shlex.join(words)


def _submitted(client: "JobSubmissionClient", name: str, experiment: str, entrypoint: str) -> tuple[str, bool]:
    """The id of the job that runs this, and whether it ran already.

    Ids count up, and the cluster takes each once: of two that submit at the same time, the second joins the first.
    """
    known = {job.submission_id: job.status for job in client.list_jobs() if job.submission_id}
    jobs = {job: status for job, status in known.items() if job.rpartition("-")[0] == name}
    running = [job for job, status in jobs.items() if status not in ENDED]
    if running:
        return running[0], True
    job = f"{name}-{1 + max((int(job.rpartition('-')[2]) for job in jobs), default=0)}"
    with tempfile.TemporaryDirectory() as folder:
        runtime_env = {}
        if experiment not in named_experiments():
            shutil.copy(experiment, folder)
            runtime_env = {"working_dir": folder}
        try:
            client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env)
        except RuntimeError as error:
            if "already exists" in str(error):
                return job, True
            raise InputError(f"the cluster refuses the job {job}: {error}") from error
    return job, False


def _follow(client: "JobSubmissionClient", job: str) -> int:
    """Show a job's log until it ends; gives its exit code, and 1 for a job that was stopped or lost."""
    import asyncio

    import aiohttp

    shown = 0

    async def show() -> None:
        """Print the log from where it broke off the last time."""
        nonlocal shown
        seen = 0
        async for lines in client.tail_job_logs(job):
            seen += len(lines)
            if seen > shown:
                print(lines[shown - seen :], end="", flush=True)
                shown = seen

    lost_since = None
    while True:
        try:
            asyncio.run(show())
            info = client.get_job_info(job)
            lost_since = None
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > LOST_SECONDS:
                print(
                    f"brewline: the head has not answered for {LOST_SECONDS} s ({error}); job {job} may still run, and "
                    "the same command joins it",
                    file=sys.stderr,
                )
                return FAILED
        else:
            if info.status in ENDED:
                return _ended(job, info)
        time.sleep(1)


def _ended(job: str, info: Any) -> int:
    if info.driver_exit_code is None or info.status == "STOPPED":
        state = str(getattr(info.status, "value", info.status)).lower()
        why = f": {info.message}" if info.message else ""
        print(f"brewline: job {job} {state}{why}\nThe same command goes on from what the store has.", file=sys.stderr)
        return FAILED
    return int(info.driver_exit_code)
