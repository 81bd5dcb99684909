"""A folder that is not the same on all machines, or a bucket that one may not use, is told before anything runs."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline import preflight
from pipeline.preflight import _answer
from pipeline.resources import Machine
from pipeline.store import open_store
from ray_cluster import RayCluster
from s3_server import S3Server


def run(file: Path, url: str, cluster: RayCluster, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [Path(sys.executable).with_name("brewline"), "run", file, "--store", url, "--address", cluster.address]
    return subprocess.run(
        command, env={**cluster.environment, **env}, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_machines_that_do_not_share_the_folder_are_told(tiny_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    try:
        cluster = RayCluster(tmp_path / "nodes", 1, hides=store)
    except PermissionError:
        pytest.skip("no permission to mount a file system that hides a folder")
    with cluster:
        refused = run(tiny_file, str(store), cluster)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "does not work from all machines of the cluster" in refused.stderr
    assert "a folder must be the same one on all machines" in refused.stderr
    assert list((store / "steps").glob("*/*")) == []


def test_machines_without_rights_are_told(
    tiny_file: Path, tmp_path: Path, s3_server: S3Server, s3_environment: dict[str, str]
) -> None:
    with RayCluster(tmp_path / "nodes", 1, **{**s3_environment, **s3_server.reader.environment}) as cluster:
        refused = run(tiny_file, s3_server.url(), cluster, **s3_server.owner.environment)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "does not work from all machines of the cluster" in refused.stderr
    assert "s3:PutObject" in refused.stderr
    for secret in (s3_server.reader.secret, s3_server.owner.secret):
        assert secret not in refused.stdout + refused.stderr


@pytest.mark.slow
def test_machines_that_lack_a_package_are_told(
    tiny_file: Path, tmp_path: Path, s3_server: S3Server, s3_environment: dict[str, str]
) -> None:
    (tmp_path / "boto3.py").write_text("raise ModuleNotFoundError('there is no boto3 here')\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with RayCluster(tmp_path / "nodes", 1, **{**s3_environment, "PYTHONPATH": paths}) as cluster:
        refused = run(tiny_file, s3_server.url(), cluster, PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert f"{socket.gethostname()}: it cannot try (ModuleNotFoundError: there is no boto3 here)" in refused.stderr


def test_two_drivers_that_start_one_run_at_once_do_not_refuse_each_other(tmp_path: Path) -> None:
    """What a machine looks at is the same function that Ray runs there."""
    store, began, seen = open_store(tmp_path / "store"), threading.Barrier(2), []

    def start(token: str) -> None:
        preflight.announce(store, "run", token)
        began.wait()
        seen.append(preflight.problem(store.url, "run", token))

    drivers = [threading.Thread(target=start, args=(token,)) for token in ("one", "two")]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert seen == [None, None]
    assert "does not see what was just written" in (preflight.problem(store.url, "run", "three") or "")


def test_a_machine_that_cannot_even_try_is_told(machines: list[Machine]) -> None:
    import ray

    def look() -> str:
        raise ModuleNotFoundError("No module named 'pipeline'")

    told = _answer(ray.remote(max_retries=0)(look).remote(), "there")
    assert told is not None
    assert (
        "there: it cannot try (ModuleNotFoundError: No module named 'pipeline'); is this brewline installed there?"
        in told
    )
