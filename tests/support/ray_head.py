"""A real head, as `ray start` starts one on a machine of a cluster, with the jobs server of its dashboard."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from s3_server import free_ports

PROGRAMS = Path(sys.executable).parent
Brewline = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Head:
    """address: `host:port` for --address of `run` and `doctor`; jobs: the URL for `submit`."""

    address: str
    jobs: str
    session: int

    def kill(self) -> None:
        """End everything of it, at once."""
        end_session(self.session)


def in_session(session: int) -> dict[int, str]:
    """The processes of a session, by the name of their program; zombies do not count."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(folder.name)) == session and " Z " not in (folder / "stat").read_text():
                found[int(folder.name)] = (folder / "comm").read_text().strip()
    return found


def end_session(session: int) -> None:
    """Kill all processes of a session."""
    while processes := in_session(session):
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def environment() -> dict[str, str]:
    """What programs run with: nothing of this machine's brewline or Ray settings, and our Python's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREWLINE_", "RAY_"))}
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return kept | {"OMP_NUM_THREADS": "1", "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


@contextmanager
def started_head(jobs: bool, **env: str) -> Iterator[Head]:
    port, dashboard, client = free_ports(3)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short: it holds sockets
        words = ["ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
        words += [
            f"--include-dashboard={str(jobs).lower()}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
        ]
        words += ["--object-store-memory=100000000", "--dashboard-agent-listen-port=0"]
        log = Path(folder, "start.log")
        with log.open("w") as out:
            process = subprocess.Popen(
                words, env=environment() | env, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )
        head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", process.pid)
        try:
            end = time.monotonic() + 60
            while not (_answers(f"{head.jobs}/api/version") if jobs else "runtime started" in log.read_text()):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(log.read_text())
                time.sleep(0.2)
            yield head
        finally:
            head.kill()
            process.wait()


@contextmanager
def started_worker(head: Head, **env: str) -> Iterator[int]:
    """One more node of the head's cluster, on this machine; gives the session of its processes."""
    words = ["ray", "start", f"--address={head.address}", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
    process = subprocess.Popen(
        words,
        env=environment() | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        end_session(process.pid)
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:  # it asks for a token
        return True
    except OSError:
        return False
    return True
