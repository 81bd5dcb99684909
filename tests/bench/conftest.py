"""What the benchmarks share: one thread, and the figures, kept as a table in the terminal and as JSON.

A figure is a ratio between contenders that took turns within one run, so that a noisy machine disturbs all alike.
BREWLINE_BENCH_JSON names a file for the figures, and BREWLINE_BENCH_ROUNDS sets the rounds (default 5).
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.execute import versions


@dataclass(frozen=True)
class Figure:
    """A measured quantity over n rounds or cases: its centre (median or mean), spread, and limit.

    network: what it was measured on, a network or images.  poisons, micro_batch: P and the images that pass through
    at once; None where they do not apply.
    at_most, at_least: the limits, None where the figure is only shown.
    """

    what: str
    network: str
    poisons: int | None
    micro_batch: int | None
    centre: float
    least: float
    most: float
    n: int
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        limit = "" if self.at_most is None else f"<= {self.at_most:.4g}"
        limit = limit if self.at_least is None else f">= {self.at_least:.4g}"
        size = (str(value or "") for value in (self.poisons, self.micro_batch))
        spread = f"[{self.least:.3f} .. {self.most:.3f}]"
        return "{:<52} {:<12} {:>5} {:>5} {:>8.3f} {:<18} {:>3}  {}".format(
            self.what, self.network, *size, self.centre, spread, self.n, limit
        ).rstrip()

    @property
    def within_limits(self) -> bool:
        """Whether the centre keeps the limits."""
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.at_most is None else self.at_most
        return bool(low <= self.centre <= high)


@dataclass
class Figures:
    """All figures of a session."""

    rounds: int
    all: list[Figure] = field(default_factory=list)

    def ratio(
        self,
        what: str,
        network: str,
        poisons: int | None,
        micro_batch: int | None,
        values: Sequence[float] | np.ndarray,
        **limits: float,
    ) -> Figure:
        """Note the median of `values`, one ratio a round."""
        median, low, high = (float(of(values)) for of in (np.median, np.min, np.max))
        return self.note(Figure(what, network, poisons, micro_batch, median, low, high, len(values), **limits))

    def mean(
        self, what: str, network: str, poisons: int, values: np.ndarray, *, at_most: float | None = None
    ) -> Figure:
        """Note the mean of `values`, one a case."""
        centre, low, high = (float(of(values)) for of in (np.mean, np.min, np.max))
        return self.note(Figure(what, network, poisons, None, centre, low, high, len(values), at_most))

    def check(self, *figures: Figure) -> None:
        """Fail with those that miss their limits."""
        missed = [str(figure) for figure in figures if not figure.within_limits]
        assert not missed, "outside the limits:\n" + "\n".join(missed)

    def note(self, figure: Figure) -> Figure:
        """Keep a figure for the table and the JSON."""
        self.all.append(figure)
        return figure


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_at_end": os.getloadavg(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: value for name, value in versions().items() if name == "commit"},
    }


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: its CPU time is wall time on a quiet machine, and other jobs hardly change it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest, one_thread: None) -> Iterator[Figures]:
    """Where benchmarks note figures; the table and the JSON are written at the end, whatever failed."""
    found = Figures(int(os.environ.get("BREWLINE_BENCH_ROUNDS", "5")))
    yield found
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    assert terminal is not None
    head = f"{'':<52} {'on':<12} {'P':>5} {'batch':>5} {'centre':>8} {'[min .. max]':<18} {'n':>3}  limit"
    terminal.write_line("\n\n" + "\n".join([head, *map(str, found.all)]))
    if (file := os.environ.get("BREWLINE_BENCH_JSON")) is not None:
        document = {"machine": _machine(), "figures": [asdict(figure) for figure in found.all]}
        Path(file).write_text(json.dumps(document, indent=1) + "\n")
