"""A folder that is not the same on all machines, or a bucket that one may not use, is told before anything runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from ray_cluster import RayCluster
from s3_server import S3Server


def run(file: Path, url: str, cluster: RayCluster, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [Path(sys.executable).with_name("brewline"), "run", file, "--store", url, "--address", cluster.address]
    return subprocess.run(
        command, env={**cluster.environment, **env}, capture_output=True, text=True, check=False, timeout=120
    )


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
