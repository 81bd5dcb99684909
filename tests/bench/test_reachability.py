"""How the gradient that poisons leave falls with their ratio, and that it is gone from tau on: figure 1 of Lu, Kamath &
Yu (2023) on sets whose tau is known. The picture lies beside the file that BREWLINE_BENCH_JSON names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Picture

from stages import figures as charts
from toy_sets import cancelled, gaussians, or_set

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

PARTS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0)
"""Ratios of poisons, in parts of tau."""
TARGETS = {
    "OR (-1, -1)": (or_set(), (-1.0, -1.0)),
    "OR (2, -1)": (or_set(), (2.0, -1.0)),
    "Gaussians": (gaussians(), (-0.2,) * 10),
}


def test_the_phase_transition_is_at_tau(figures: "Figures") -> None:
    picture = Picture(figsize=(charts.WIDE, 3.2), layout="constrained")
    noted = []
    for panel, (name, ((x, labels), target)) in zip(picture.subplots(1, 3, sharey=True), TARGETS.items(), strict=True):
        w = torch.tensor(target, dtype=torch.float64)
        found = [cancelled(w, x, labels, part) for part in PARTS]
        left, least = np.array([one[0] for one in found]), np.array([one[1] for one in found])
        away = np.array([((one[2] - w).norm() / w.norm()).item() for one in found])
        panel.plot(PARTS, left, "o-", color=charts.POISONED, label="left of the clean gradient")
        panel.plot(PARTS, least, color=charts.MUTED, linestyle="--", label="what must be left")
        panel.plot(PARTS, away, "s-", color=charts.CLEAN, label="refitted parameters: distance from w")
        panel.axvline(1, color=charts.FAINT)
        panel.set(title=name, xlabel="eps_d / tau", ylim=(-0.03, 1.05))
        below, above = np.array(PARTS) < 1, np.array(PARTS) > 1.25
        noted += [
            figures.ratio(
                "left / what must be left, below tau", name, 2, None, left[below] / least[below], at_most=1.1
            ),
            figures.ratio("left of the clean gradient, above tau", name, 2, None, left[above], at_most=0.06),
            figures.ratio("distance from w, below tau", name, 2, None, away[below], at_least=0.1),
            figures.ratio("distance from w, above tau", name, 2, None, away[above], at_most=0.1),
        ]
    panel.legend()
    if (file := os.environ.get("BREWLINE_BENCH_JSON")) is not None:
        charts.save(picture, Path(file).with_name("reachability.png"))
    figures.check(*noted)
