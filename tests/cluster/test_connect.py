"""A Ray of our own starts whatever else is on the machine, and ends with its process; others are joined by address."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.connect import connected
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
