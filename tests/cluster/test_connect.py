"""A Ray of our own starts whatever else is on the machine, and ends with its process; others are joined by address."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._raylet import GcsClient

from cluster.connect import connected
from ray_head import Head, in_session, started_head
from stages.config import InputError

OWN = """
import signal, sys
from cluster.connect import connected
signal.signal(signal.SIGTERM, signal.default_int_handler)
with connected(None) as machines:
    import ray
    print(machines[0]["CPU"], ray.get_runtime_context().gcs_address, flush=True)
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    sys.stdin.read()
assert not ray.is_initialized()
"""
JOIN = """
import sys
from cluster.connect import connected
with connected(sys.argv[1]) as machines:
    import ray
    print(machines[0]["CPU"], ray.get_runtime_context().gcs_address)
"""


def start(script: str, *arguments: str, **env: str) -> subprocess.Popen[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        text=True,
        env=inherited | env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="module")
def first() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a Ray of its own, and that Ray's address."""
    # An address of some other cluster must not be joined, nor waited for.
    process = start(OWN, RAY_ADDRESS="127.0.0.1:9", RAY_AUTH_MODE="disabled")
    assert process.stdout is not None
    cpus, address = process.stdout.readline().split() or pytest.fail(process.communicate()[1])
    assert float(cpus) >= 1
    yield process, address
    process.kill()
    process.communicate()


def test_an_address_joins_that_cluster(first: tuple[subprocess.Popen[str], str]) -> None:
    out, err = start(JOIN, first[1], RAY_AUTH_MODE="disabled").communicate(timeout=120)
    assert out.split()[1:] == [first[1]], err


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "no.such.host.invalid:6379", "127.0.0.1", "ray:cluster", "127.0.0.1:99999"]
)
def test_an_address_without_a_cluster_is_told_at_once(address: str) -> None:
    with pytest.raises(InputError, match=f"--address {address}: "), connected(address):
        pytest.fail("there is no cluster")


def test_it_ends_with_its_process(first: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = first
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err, "SIGTERM is the program's own to handle, not Ray's"


@pytest.fixture
def lonely() -> Iterator[Head]:
    """A head of a test's own, without a dashboard."""
    with started_head(jobs=False) as running:
        yield running


def join(address: str, **env: str) -> tuple[str, str, float]:
    """What a process that joins prints, on both outputs, and the seconds it takes."""
    began = time.monotonic()
    out, err = start(JOIN, address, **{"RAY_AUTH_MODE": "disabled"} | env).communicate(timeout=200)
    return out, err, time.monotonic() - began


def test_another_version_is_told_at_once(lonely: Head) -> None:
    client = GcsClient(address=lonely.address)
    stored = json.loads(client.internal_kv_get(b"CLUSTER_METADATA", namespace=b"cluster"))
    assert stored.keys() >= {"ray_version", "python_version"}
    for name, other in (("ray_version", "2.59.1"), ("python_version", "3.12.4")):
        client.internal_kv_put(
            b"CLUSTER_METADATA", json.dumps(stored | {name: other}).encode(), True, namespace=b"cluster"
        )
        out, err, seconds = join(lonely.address)
        assert not out and "InputError" in err and other in err and stored[name] in err, err
        assert seconds < 20


def test_the_datasets_folder_goes_to_the_workers_and_nothing_else_does(lonely: Head) -> None:
    script = """
import os, sys
from cluster.connect import connected
with connected(sys.argv[1]):
    import ray
    ask = ray.remote(lambda: [os.environ.get(name) for name in ("BREWLINE_DATA", "AWS_SECRET_ACCESS_KEY")])
    print(ray.get(ask.remote()))
"""
    environment = {"RAY_AUTH_MODE": "disabled", "BREWLINE_DATA": "/mnt/data", "AWS_SECRET_ACCESS_KEY": "x"}
    out, err = start(script, lonely.address, **environment).communicate(timeout=120)
    assert out.strip() == "['/mnt/data', None]", err


def test_auto_without_a_cluster_is_told_at_once() -> None:
    _, err, seconds = join("auto", RAY_TMPDIR="/nonexistent", RAY_ADDRESS="127.0.0.1:9")
    assert "InputError: --address auto" in err and seconds < 20, err


@pytest.mark.slow
def test_a_head_that_hangs_is_not_waited_for(lonely: Head) -> None:
    gcs = next(process for process, name in in_session(lonely.session).items() if name == "gcs_server")
    os.kill(gcs, signal.SIGSTOP)
    _, err, seconds = join(lonely.address)
    assert "InputError" in err and "no Ray head answers" in err and seconds < 60, err


@pytest.mark.slow
def test_a_head_that_dies_as_we_connect_is_given_up(lonely: Head) -> None:
    """Its node on this machine is gone, and its metadata still answer: where Ray would wait for a minute."""
    for process, name in in_session(lonely.session).items():
        if name == "raylet":
            os.kill(process, signal.SIGKILL)
    _, err, seconds = join(lonely.address)
    assert "InputError" in err and seconds < 60, err
