"""A run on a cluster whose nodes are killed at random, one after the other, ends as an undisturbed run does."""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from chaos.invariants import all_hold, write_ids
from faults import INJECTED
from pipeline.experiment import Runtimes
from pipeline.needs import cached_steps
from pipeline.plan import Plan
from pipeline.resources import Machine
from pipeline.runner import Runner
from pipeline.store import Store, open_store
from ray_cluster import RayCluster
from s3_server import S3Server

Planner = Callable[[dict[str, Any]], Plan]
LARGER = {"cases.count": 2, "victims.count": 3, "surrogates.count": 2, "training.epochs": 40}
"""What makes the tiny experiment long enough to be disturbed."""


class Silent:
    """Looks away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, plan_tiny: Planner, machines: list[Machine]
) -> tuple[Plan, Store]:
    """The larger tiny experiment, run in peace on one machine."""
    plan, store = plan_tiny(LARGER), open_store(tmp_path_factory.mktemp("undisturbed"))
    watcher: Any = Silent()
    outcome = Runner(plan, store, Runtimes(device="cpu"), machines, watcher).run(cached_steps(plan, store))
    assert outcome.ran == set(plan.steps)
    return plan, store


def driver(file: Path, url: str, cluster: RayCluster, env: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """The real command, joined to the cluster."""
    command = [Path(sys.executable).with_name("brewline"), "run", file, "--store", url, "--address", cluster.address]
    with log.open("ab") as out:
        return subprocess.Popen(command, env={**cluster.environment, **env}, stdout=out, stderr=out)


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("s3", 3),
        pytest.param("s3", 12, marks=pytest.mark.chaos),
        pytest.param("folder", 12, marks=pytest.mark.chaos),
    ],
)
def test_a_run_survives_its_nodes(
    kills: int,
    kind: str,
    undisturbed: tuple[Plan, Store],
    tiny: dict[str, Any],
    tmp_path: Path,
    s3_server: S3Server,
    s3_environment: dict[str, str],
) -> None:
    plan, expected = undisturbed
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    file, log, url = tmp_path / "tiny.yaml", tmp_path / "log.txt", s3_server.url() if kind == "s3" else tmp_path / "s"
    for path, value in LARGER.items():
        section, name = path.split(".")
        tiny[section][name] = value
    file.write_text(yaml.safe_dump(tiny))
    store, earlier = open_store(url), {}
    with RayCluster(tmp_path / "cluster", nodes=2, **s3_environment) as cluster:
        process = driver(file, str(url), cluster, s3_environment, log)
        try:
            for number in range(kills):
                # Through all stages: each death comes when a few steps more are committed.
                wanted = (number + 1) * len(plan.steps) // (kills + 2)
                while len(earlier := {**write_ids(store), **earlier}) < wanted:
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.2)
                time.sleep(rng.uniform(0, 1))
                cluster.kill(cluster.nodes.pop(rng.randrange(len(cluster.nodes))))
                INJECTED["a node killed"] += 1
                cluster.nodes.append(cluster.add())
            assert process.wait(timeout=300) == 0, log.read_text()
        finally:
            process.kill()
    assert cached_steps(plan, store) == set(plan.steps)
    assert "its machine is gone" in log.read_text() or "its worker died" in log.read_text()
    all_hold(store, expected, earlier=earlier)
