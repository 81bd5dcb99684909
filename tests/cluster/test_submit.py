"""A run is handed over to a real head as a Ray job, joined while it runs, and refused here where it is wrong."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_head import PROGRAMS, Brewline, Head, environment, started_head


@pytest.fixture
def tiny_file(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """An experiment that runs in seconds, beside a file that is nobody's business."""
    file = tmp_path / "here" / "tiny-job.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(tiny | {"name": "tiny-job"}))
    (file.parent / "private.txt").write_text("not to be sent")
    return file


def jobs(head: Head) -> dict[str, Any]:
    """The jobs that the head knows, by id."""
    done = subprocess.run(
        [PROGRAMS / "python", "-c", _LIST, head.jobs], capture_output=True, text=True, check=True, env=environment()
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


_LIST = """
import json, sys
from ray.job_submission import JobSubmissionClient
found = JobSubmissionClient(sys.argv[1]).list_jobs()
print(json.dumps({job.submission_id: [job.entrypoint, job.status, job.runtime_env] for job in found}))
"""


@pytest.mark.slow
def test_a_run_is_handed_over_joined_and_resumed(
    head: Head, brewline: Brewline, tiny_file: Path, tmp_path: Path
) -> None:
    words = ["submit", tiny_file, "--store", tmp_path / "store", "--shared", "--address", head.jobs, "--json"]
    first = brewline(*words, "--no-follow")
    job = json.loads(first.stdout)["job"]
    assert first.returncode == 0 and f"ray job stop --address {head.jobs} {job}" in first.stderr

    joined = brewline(*words)
    assert "at work already" in joined.stderr and job in joined.stderr, joined.stderr
    told = json.loads(joined.stdout.splitlines()[-1])
    assert joined.returncode == 0 and told["steps"]["ran"] == told["steps"]["total"]
    assert list((tmp_path / "store" / "steps" / "summarize").iterdir()), "the job's store is the one that was asked for"

    again = brewline(*words)
    assert json.loads(again.stdout.splitlines()[-1])["steps"]["ran"] == 0
    ours = {name: facts for name, facts in jobs(head).items() if name.startswith("tiny-job-")}
    assert len(ours) == 2, "the second submission joined, the third was a job of its own"

    delete = [PROGRAMS / "ray", "job", "delete", "--address", head.jobs, job]
    subprocess.run(delete, capture_output=True, check=True, env=environment())
    later = brewline(*words, "--no-follow")
    assert json.loads(later.stdout)["job"] not in ours, "a job that has ended is not joined, whatever was deleted"


@pytest.mark.slow
def test_it_ends_with_the_jobs_exit_code(head: Head, brewline: Brewline, tiny_file: Path, tmp_path: Path) -> None:
    words = ["submit", tiny_file, "--store", tmp_path / "store", "--shared", "--address", head.jobs]
    refused = brewline(*words, "--set", "runtime.cpus=500")
    assert refused.returncode == 2 and "runtime.cpus" in refused.stdout, refused.stdout + refused.stderr


def test_only_the_experiment_travels_and_a_stopped_job_is_told(
    head: Head, brewline: Brewline, tiny_file: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    words = ["submit", tiny_file, "--store", store, "--shared", "--address", head.jobs, "--set", "attack.eps=16"]
    job = json.loads(brewline(*words, "--no-follow", "--json").stdout)["job"]
    entrypoint, _, runtime_env = jobs(head)[job]
    assert entrypoint == f"brewline run tiny-job.yaml --set attack.eps=16 --store {store} --address auto --json"
    assert set(runtime_env) <= {"working_dir", "_ray_commit"}, "no environment, so no credentials"
    stop = [PROGRAMS / "ray", "job", "stop", "--address", head.jobs, job]
    assert subprocess.run(stop, env=environment(), check=False, capture_output=True).returncode == 0
    assert jobs(head)[job][1] == "STOPPED"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["no-such-experiment", "--store", "/mnt/store", "--shared"], "no experiment 'no-such-experiment'"),
        (["quickstart", "--store", "/mnt/store", "--shared", "--set", "attack.epss=8"], "epss"),
        (["quickstart", "--store", "/mnt/store"], "--shared"),
        (["quickstart", "--store", "store", "--shared"], "whole path"),
        (["quickstart", "--store", "/mnt/store", "--shared", "--address", "10.0.0.1:6379"], "http://10.0.0.1:8265"),
        (["quickstart", "--store", "/mnt/store", "--shared", "--address", "http://127.0.0.1:9"], "no jobs server"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(brewline: Brewline, words: list[str], why: str) -> None:
    address = [] if "--address" in words else ["--address", "http://127.0.0.1:9"]
    done = brewline("submit", *words, *address)
    assert done.returncode == 2 and why in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_says_nothing_is_not_waited_for(brewline: Brewline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = brewline("submit", "quickstart", "--store", "/mnt/store", "--shared", "--address", address)
        assert done.returncode == 2 and "no jobs server lets us in" in done.stderr
        assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_cluster_with_a_token_lets_in_who_has_it(brewline: Brewline, tiny_file: Path, tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test-alone-0123456789"}
    with started_head(jobs=True, **token) as guarded:
        words = ["submit", tiny_file, "--store", tmp_path / "store", "--shared", "--address", guarded.jobs]
        for other in (
            {"RAY_AUTH_MODE": "disabled"},
            {**token, "RAY_AUTH_TOKEN": "another-token-0123456789-0123456789"},
        ):
            refused = brewline(*words, **other)
            assert refused.returncode == 2 and "RAY_AUTH_TOKEN" in refused.stderr, refused.stderr
            outside = brewline("doctor", "--address", guarded.address, "--store", tmp_path / "store", **other)
            assert outside.returncode == 2 and "RAY_AUTH_TOKEN" in outside.stderr, outside.stderr
            assert "0123456789" not in refused.stderr + outside.stderr, "a message tells no token"
        done = brewline(*words, **token)
        assert done.returncode == 0 and token["RAY_AUTH_TOKEN"] not in done.stdout + done.stderr, done.stderr
