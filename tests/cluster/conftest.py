"""One head for all tests that need a cluster, and the real command."""

import subprocess
from collections.abc import Iterator

import pytest

from ray_head import PROGRAMS, Brewline, Head, environment, started_head


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
