"""The doctor tells what is wrong with a machine, or with a node of a real cluster, and names the one that hangs."""

import copy
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient

from cluster.examine import examine
from cluster.verdicts import FAIL, OK, WARN, Machine, judge, table
from ray_head import Brewline, Head, in_session, started_worker


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What this machine has."""
    return examine(str(tmp_path_factory.mktemp("store")))


def verdicts(theirs: dict[str, Any], ours: dict[str, Any], **machine: Any) -> dict[str, tuple[str, str]]:
    """(verdict, advice) of every check of a machine that is not OK."""
    findings = judge(Machine("node", "worker", theirs, **machine), ours)
    return {finding.check: (finding.verdict, finding.advice) for finding in findings if finding.verdict != OK}


def changed(facts: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The facts with one of them set."""
    copied = copy.deepcopy(facts)
    *parents, last = path.split(".")
    place = copied
    for name in parents:
        place = place[name]
    place[last] = value
    return copied


@pytest.mark.parametrize(
    ("path", "value", "check", "verdict"),
    [
        ("versions.python", "3.12.1", "python", FAIL),
        ("versions.python", "3.11.99", "python", WARN),
        ("versions.ray", "2.59.0", "ray", FAIL),
        ("versions.brewline", "0.0.1", "brewline", FAIL),
        ("versions.torch", "2.14.0", "torch", WARN),
        ("versions.pillow", "11.0.0", "pillow", WARN),
        ("devices", {"problem": "libcuda is broken"}, "GPUs", FAIL),
        ("disks.cache.free_gb", 1.0, "cache", WARN),
        ("disks.scratch.problem", "Read-only file system", "scratch", FAIL),
        ("shm_gb", 0.064, "/dev/shm", WARN),
        ("store", "s3://bucket: access denied; give the role cluster/s3-policy.json", "store", FAIL),
    ],
)
def test_a_difference_or_a_fault_is_a_verdict_with_advice(
    facts: dict[str, Any], path: str, value: Any, check: str, verdict: str
) -> None:
    before = verdicts(facts, facts)
    found = verdicts(changed(facts, path, value), facts)
    assert found[check][0] == verdict and found[check][1], found
    assert found.keys() - before.keys() == {check}, "one fault is one finding"


def test_gpus_are_compared_with_what_ray_counts(facts: dict[str, Any]) -> None:
    gpu = {"name": "NVIDIA L40S", "gb": 48.0, "problem": None}
    two = changed(facts, "devices.gpus", [gpu, gpu])
    assert "GPUs" not in verdicts(two, facts, gpus=2)
    assert verdicts(two, facts, gpus=4)["GPUs"][0] == FAIL
    assert verdicts(two, facts, gpus=1)["GPUs"][0] == WARN
    broken = changed(facts, "devices.gpus", [gpu, gpu | {"problem": "CUDA error: no kernel image"}])
    assert "GPU 1: CUDA error" in verdicts(broken, facts, gpus=2)["GPUs"][1]


def test_a_clock_counts_as_off_only_where_that_is_sure(facts: dict[str, Any]) -> None:
    assert "clock" not in verdicts(facts, facts, offset=9.0, uncertainty=8.0)
    assert verdicts(facts, facts, offset=-9.0, uncertainty=0.1)["clock"][0] == WARN
    assert verdicts(facts, facts, offset=1000.0, uncertainty=0.1)["clock"][0] == FAIL


def test_data_must_be_on_every_node_that_are_where_it_is_asked(facts: dict[str, Any]) -> None:
    here = changed(facts, "data", {"root": "/data", "given": True, "names": ["imagenet"]})
    nowhere = changed(facts, "data", {"root": "/data", "given": True, "names": None})
    assert verdicts(nowhere, here)["datasets"][0] == FAIL
    assert verdicts(nowhere, nowhere)["datasets"][0] == WARN


def test_machines_of_a_kind_share_a_column_and_faults_name_theirs(facts: dict[str, Any]) -> None:
    cloned = [Machine(f"node-{index}", "worker, 16 CPU", copy.deepcopy(facts)) for index in range(3)]
    assert cloned[1].facts is not None
    cloned[1].facts["versions"]["ray"] = "2.59.0"
    machines = [Machine("head", "head, 0 CPU", facts), *cloned]
    for machine in machines:
        machine.findings.extend(judge(machine, facts))
    text = table(machines)
    head, _, *rows = text.split("\n\n")[0].splitlines()
    assert "3 × worker, 16 CPU" in head
    ours = facts["versions"]["ray"]
    assert next(row for row in rows if row.startswith("ray ")).split() == ["ray", ours, "2.59.0", "…", ours, FAIL]
    assert len({len(row.rstrip()) for row in [head, *rows]}) == 1, "columns line up"
    assert "FAIL  node-1: ray is 2.59.0" in text and "node-0: ray" not in text


def test_this_machine(brewline: Brewline, tmp_path: Path) -> None:
    done = brewline("doctor", "--store", tmp_path / "store", "--json", BREWLINE_DATA=str(tmp_path))
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (told["verdict"] == FAIL), done.stdout + done.stderr
    (node,) = told["nodes"]
    assert {finding["check"]: finding["verdict"] for finding in node["findings"]}["store"] == OK
    assert not list((tmp_path / "store").glob(".doctor-*"))


def test_a_store_in_s3_is_tried_out(brewline: Brewline, s3_url: str, s3_environment: dict[str, str]) -> None:
    done = brewline("doctor", "--store", s3_url, "--json", **s3_environment)
    told = json.loads(done.stdout.splitlines()[-1])
    (node,) = told["nodes"]
    assert {finding["check"]: finding["verdict"] for finding in node["findings"]}["store"] == OK, done.stdout
    assert node["facts"]["disks"]["cache"]["folder"] == s3_environment["BREWLINE_NODE_CACHE"]
    assert s3_environment["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr


def test_a_folder_that_only_looks_like_the_store_fails(tmp_path: Path) -> None:
    problem = examine(str(tmp_path), "the mark of whoever asks")["store"]
    assert problem is not None and "another folder" in problem and str(tmp_path) in problem


def test_a_store_that_cannot_be_written_fails(brewline: Brewline, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = brewline("doctor", "--store", tmp_path / "file" / "store")
    assert done.returncode == 1 and "FAIL" in done.stdout and "cannot be written" in done.stdout


def test_every_node_is_looked_at_and_missing_ones_are_counted(head: Head, brewline: Brewline, tmp_path: Path) -> None:
    with started_worker(head):
        wait_for_nodes(head, 2)
        done = brewline("doctor", "--address", head.address, "--store", tmp_path / "store", "--nodes", "3", "--json")
        told = json.loads(done.stdout.splitlines()[-1])
        checks = [{finding["check"]: finding["verdict"] for finding in node["findings"]} for node in told["nodes"]]
        assert len(checks) == 2 and all(one["answers"] == one["store"] == one["clock"] == OK for one in checks)
        assert done.returncode == 1 and "2 of 3 nodes are there" in done.stdout


@pytest.mark.slow
def test_a_node_that_hangs_is_named_within_its_time(head: Head, brewline: Brewline, tmp_path: Path) -> None:
    with started_worker(head) as worker:
        wait_for_nodes(head, 2)
        raylet = next(process for process, name in in_session(worker).items() if name == "raylet")
        os.kill(raylet, signal.SIGSTOP)
        began = time.monotonic()
        # Ray takes a silent node for dead after a while; until then it is one that hangs.
        done = brewline("doctor", "--address", head.address, "--store", tmp_path / "store", "--timeout", "10", "--json")
        assert time.monotonic() - began < 60
        hanging = json.loads(done.stdout.splitlines()[-1])["nodes"][1]
        assert done.returncode == 1 and hanging["kind"].startswith("worker")
        assert hanging["findings"][0]["verdict"] == FAIL and hanging["name"] in done.stdout


def wait_for_nodes(head: Head, count: int) -> None:
    client, end = GcsClient(address=head.address), time.monotonic() + 60
    while sum(node.state == 0 for node in client.get_all_node_info().values()) < count:
        assert time.monotonic() < end, "the second node did not join"
        time.sleep(0.2)
