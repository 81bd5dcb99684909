"""A real head, as `ray start` starts one on a machine of a cluster, with the jobs server of its dashboard."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = Path(sys.executable).parent
Brewline = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class Head:
    """address: `host:port` for --address of `run` and `doctor`; jobs: the URL for `submit`."""

    address: str
    jobs: str
    session: int

    def processes(self) -> dict[str, int]:
        """Process ids by the name of the program."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.getsid(int(folder.name)) == self.session:
                    found[(folder / "comm").read_text().strip()] = int(folder.name)
        return found

    def kill(self) -> None:
        """End everything of it, at once."""
        while processes := self.processes():
            for process in processes.values():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.session, os.WNOHANG)
            time.sleep(0.05)


def environment() -> dict[str, str]:
    """What programs run with: nothing of this machine's brewline or Ray settings, and our Python's programs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BREWLINE_", "RAY_"))}
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    return kept | {"OMP_NUM_THREADS": "1", "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def started_head(jobs: bool, **env: str) -> Iterator[Head]:
    port, dashboard = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short: it holds sockets
        words = ["ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2", f"--temp-dir={folder}"]
        words += [f"--include-dashboard={str(jobs).lower()}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
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


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head of two CPUs with a jobs server. Never harm it: `started_head` makes one of your own."""
    with started_head(jobs=True) as running:
        yield running


@pytest.fixture(scope="session")
def brewline() -> Brewline:
    """Runs the real command to its end."""

    def command(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAMS / "brewline"), *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
            env=environment() | env,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return command
