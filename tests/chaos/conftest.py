"""Real S3 servers for the suite, stores behind the proxy, and a last word on how much was broken."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.site import Site
from faults import INJECTED
from faulty_proxy import FaultyProxy
from s3_server import S3Server, serving


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was injected."""
    if INJECTED:
        kinds = ", ".join(f"{name} {count}" for name, count in sorted(INJECTED.items()))
        terminalreporter.write_line(f"{INJECTED.total()} faults injected: {kinds}")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A running server of the test's own, which it may kill."""
    with serving(tmp_path / "server") as server:
        yield server


@pytest.fixture
def new_site(s3_server: S3Server, s3_environment: dict[str, str], proxy: FaultyProxy) -> Callable[[], Site]:
    """Makes an empty store behind the proxy."""
    return lambda: Site(proxy, s3_server.endpoint)


@pytest.fixture
def site(new_site: Callable[[], Site]) -> Site:
    """An empty store behind the proxy."""
    return new_site()
