"""A node that is to go, on a real Ray of several nodes: what runs there knows, and saves in time."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.execute import execute
from pipeline.store import open_store
from stages.stage import Runtime

CLUSTER = """
import json, os, pickle, sys, time
from cluster.connect import ENVIRONMENT
os.environ.update(ENVIRONMENT)
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
ray.init(cluster.address, log_to_driver=False)

def node(name):
    return cluster.add_node(num_cpus=1, resources={name: 1})

def drain(node, seconds):
    reason, deadline = 2, int((time.time() + seconds) * 1000)  # 2: preemption
    assert GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot", deadline) == (True, "")

def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
"""

TASK = """
going = node("going")

@ray.remote(num_cpus=1, resources={"going": 1})
def step(folder):
    from pathlib import Path
    from pipeline.draining import node_draining
    draining, before = node_draining(), 0
    while not draining():
        before += 1
        Path(folder, "runs").touch()
        time.sleep(0.1)
    return before

running = step.remote(sys.argv[1])
until(lambda: os.path.exists(os.path.join(sys.argv[1], "runs")))
drain(going, 60)
print(json.dumps(ray.get(running, timeout=30)))
"""

GROUP = """
from pathlib import Path
from pipeline.store import open_store
from pipeline.train_group import run_group
from stages.stage import Runtime

step, reports = pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])

def reporter():
    def report(done, total, figures):
        with reports.open("a") as lines:
            lines.write(f"{os.getpid()} {done}\\n")
    return report

def pids():
    return list(dict.fromkeys(line.split()[0] for line in reports.read_text().splitlines())) if reports.exists() else []

store = open_store(sys.argv[3])
checkpoint = store.scratch(step.key) / "checkpoint.safetensors"
staying, going = node("staying"), node("going")
runtime = Runtime(device="cpu", workers=2, min_workers=1, checkpoint_seconds=3600)
lead = ray.remote(num_cpus=0, max_retries=0)(run_group)
running = lead.remote(step, store.url, runtime, {"CPU": 1}, reporter)
until(lambda: len(reports.read_text().splitlines() if reports.exists() else []) > 3)
assert not checkpoint.exists()
drain(going, 20)
until(checkpoint.exists)
until(lambda: len(pids()) == 2)
lines = [line.split() for line in reports.read_text().splitlines()]
print(json.dumps([next(int(done) for pid, done in lines if pid == of) for of in pids()]))
ray.cancel(running, force=True)
"""


def script(text: str, *arguments: object) -> Any:
    words = [sys.executable, "-c", CLUSTER + text, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_task_knows_that_its_node_is_to_go(tmp_path: Path) -> None:
    assert script(TASK, tmp_path) > 0


@pytest.mark.slow
def test_a_group_saves_before_its_node_goes_and_goes_on_with_those_that_stay(tmp_path: Path, plan_tiny: Any) -> None:
    """No checkpoint is due for an hour but the one that the notice brings."""
    store, file = open_store(tmp_path / "store"), tmp_path / "step"
    plan = plan_tiny({"training.epochs": 100_000})
    step = next(step for step in plan.steps.values() if step.stage == "pretrain")
    for ref in step.inputs.values():
        execute(plan.steps[ref.key], store, Runtime(device="cpu"))
    file.write_bytes(pickle.dumps(step))
    begins = script(GROUP, file, tmp_path / "reports", store.url)
    assert begins[0] == 1 and begins[1] > 3
