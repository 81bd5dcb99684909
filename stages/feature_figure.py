"""The pictures of what poisons do to features: where they lie, and how far the decision boundary turns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.figures import CLEAN, INK, MUTED, POISONED, STYLE, WIDE, legend, multiples, shorten

LOOKS: dict[str, dict[str, Any]] = {
    "target class": {"marker": "o", "color": CLEAN, "s": 9, "alpha": 0.5, "linewidths": 0},
    "intended class": {"marker": "s", "color": MUTED, "s": 9, "alpha": 0.5, "linewidths": 0},
    "base": {"marker": "D", "facecolors": "none", "edgecolors": INK, "s": 34},
    "poison": {"marker": "X", "color": POISONED, "s": 42, "linewidths": 0},
    "target": {"marker": "*", "color": INK, "s": 110, "linewidths": 0},
}
"""What each kind of point looks like; later ones are drawn over earlier ones."""


@style.context(STYLE)
def feature_picture(title: str, views: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> Figure:
    """Views of one case, by whose features they are (see `stages.features.view`), a panel each.

    names: of the classes, for "target class" and "intended class".
    """
    across, up = "along the line through the centroids", "rest of the boundary's normal"
    figure, panels = multiples(len(views), f"{title}: features, and the decision boundary", across, up, WIDE, False)
    for panel, (whose, found) in zip(panels, views.items(), strict=True):
        panel.set_title(f"{whose} victim", loc="left")
        for name, look in LOOKS.items():
            label = f"{name} {shorten(names[name], 16)}" if name in names else name
            panel.scatter(*np.array(found["points"][name]).T, label=label, **look)
        _boundary(panel, found["boundary"])
    legend(figure, panels[0].get_legend_handles_labels()[0])
    return figure


@style.context(STYLE)
def deviation_picture(lines: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Figure:
    """The angle between the boundaries of poisoned and clean victims: epochs and degrees of each poisoned victim."""
    headline = "How far do poisons turn the decision boundary?"
    figure, (panel,) = multiples(1, headline, "epoch", "angle to the clean victim's, degrees", WIDE)
    for epochs, degrees in lines:
        panel.plot(epochs, degrees, color=POISONED, alpha=0.35, linewidth=0.8)
    mean = np.mean([degrees for _, degrees in lines], axis=0)
    handles = panel.plot(lines[0][0], mean, color=POISONED, linewidth=2.2, marker=".", label="mean of all victims")
    panel.set_ylim(bottom=0)
    legend(figure, handles)
    return figure


def _boundary(panel: Axes, boundary: Sequence[float]) -> None:
    """The line on which both classes have the same logit, across what the panel shows."""
    p, q, r = boundary
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    xs = np.linspace(left, right, 2)
    panel.plot(xs, -(p * xs + r) / q, color=INK, linewidth=1.1, linestyle="--", label="decision boundary")
    panel.set(xlim=(left, right), ylim=(bottom, top))
