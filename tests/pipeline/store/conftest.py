"""A new store of each kind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.stores import KINDS, Folder


@pytest.fixture
def new_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], Folder]:
    """Makes an empty store of a kind, under a name of the test's own."""

    def new(kind: str, name: str) -> Folder:
        return KINDS[kind](request, tmp_path / name)

    return new


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, new_kind: Callable[[str, str], Folder]) -> Folder:
    """An empty store of every kind."""
    return new_kind(request.param, "kind")
