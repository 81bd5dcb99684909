"""The charts of a run: adversarial loss, brew loss and success, from plain numbers to figures and PNG files.

One style for all of them, whatever matplotlibrc the machine has, and nothing of pyplot's global state; the same numbers
give the same bytes. Poisoned and clean differ in hue, in lightness, and in line or marker, so that they stay apart for
colour-blind eyes and in print.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stages.summarize import rate

INK, MUTED, FAINT = "#222222", "#6B6B6B", "#C9C9C9"
POISONED, CLEAN = "#C44E00", "#5AA5D6"
PANELS = 12
"""Most panels of small multiples in one picture."""

STYLE: list[str | dict[str, Any]] = [
    "default",
    {
        "font.family": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,  # a class may be called "$1 note"
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#EBEBEB",
        "grid.linewidth": 0.8,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    },
]


@dataclass(frozen=True)
class AdversarialLoss:
    """One case's adversarial losses: epochs [E], poisoned and clean [victims, E], in nats."""

    title: str
    epochs: Sequence[int]
    poisoned: np.ndarray
    clean: np.ndarray


@dataclass(frozen=True)
class BrewLoss:
    """One case's brew: B at each step of each restart, which restart was chosen, and B of its finished poisons."""

    title: str
    restarts: Sequence[Sequence[float]]
    chosen: int
    final: float


def shorten(name: str, length: int) -> str:
    """A class name in at most `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, without a date or a version in it."""
    with style.context(STYLE):
        FigureCanvasAgg(figure).print_png(str(file), metadata={"Software": None})


@style.context(STYLE)
def adversarial_loss(cases: Sequence[AdversarialLoss]) -> Figure:
    """Cross-entropy of the target to the intended class at each epoch: a thick mean, a thin line a victim.

    A panel a case; with more than `PANELS` cases one panel, in which the thin lines are the cases' means. After
    Witches' Brew, figure 9.
    """
    many = len(cases) > PANELS
    thin = "case" if many else "victim"
    headline = "Adversarial loss: is the target drifting to the intended class?"
    figure, panels = _multiples(1 if many else len(cases), headline, "epoch", "loss (nats)")
    shown = [_together(cases)] if many else cases
    for panel, case in zip(panels, shown, strict=True):
        panel.set_title(case.title, loc="left")
        for losses, colour, dashes in ((case.clean, CLEAN, "--"), (case.poisoned, POISONED, "-")):
            marker = "o" if len(case.epochs) < 3 else None
            for line in losses:
                panel.plot(case.epochs, line, dashes, color=colour, alpha=0.4, linewidth=0.8)
            panel.plot(case.epochs, losses.mean(0), dashes, color=colour, linewidth=2.2, marker=marker, markersize=4)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylim(bottom=0)  # of all panels, and only now: it ends the scaling to what is drawn
    _legend(
        figure,
        [
            Line2D([], [], color=POISONED, linewidth=2.2, label="poisoned victims, mean"),
            Line2D([], [], color=CLEAN, linewidth=2.2, linestyle="--", label="clean victims, mean"),
            Line2D([], [], color=MUTED, linewidth=0.8, alpha=0.6, label=f"one {thin}"),
        ],
    )
    return figure


@style.context(STYLE)
def brew_loss(cases: Sequence[BrewLoss]) -> Figure:
    """B at each step of each restart, the chosen restart in front; one panel a case, at most `PANELS`."""
    limit = "" if len(cases) <= PANELS else f" (the first {PANELS} of {len(cases)} cases)"
    headline = f"Brewing: the objective B at each step{limit}"
    figure, panels = _multiples(min(len(cases), PANELS), headline, "step", "B")
    for panel, case in zip(panels, cases, strict=False):
        panel.set_title(case.title, loc="left")
        for restart, losses in enumerate(case.restarts):
            if restart != case.chosen:
                panel.plot(losses, color=MUTED, alpha=0.55, linewidth=0.9)
        panel.plot(case.restarts[case.chosen], color=POISONED, linewidth=2.0)
        panel.annotate(
            f"restart {case.chosen}: {case.final:.3f}",
            (1, 0.94),
            xycoords="axes fraction",
            ha="right",
            va="top",
            color=POISONED,
            fontsize=8,
        )
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.margins(y=0.12)
    lines = [Line2D([], [], color=POISONED, linewidth=2.0, label="chosen restart, and B of its poisons")]
    if any(len(case.restarts) > 1 for case in cases):
        lines.append(Line2D([], [], color=MUTED, alpha=0.55, linewidth=0.9, label="other restarts"))
    _legend(figure, lines)
    return figure


@style.context(STYLE)
def success(
    titles: Sequence[str],
    poisoned: Sequence[float],
    clean: Sequence[float],
    means: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> Figure:
    """Success in each case, poisoned against clean (fractions of the victims), and below the mean ± standard error.

    means: `mean` and `se` over the cases (see `summarize.mean_and_error`), poisoned and clean.
    """
    figure = Figure(figsize=(7.2, 1.75 + 0.27 * (len(titles) + 1)), dpi=150)
    _headline(figure, "How often is the target taken for the intended class?")
    axes = figure.add_subplot()
    rows = np.arange(len(titles))
    below = len(titles) + 0.5
    axes.hlines(rows, clean, poisoned, color=FAINT, linewidth=2, zorder=1)
    axes.axhline(len(titles) - 0.25, color=FAINT, linewidth=0.8)
    marks = []
    for label, values, mean, colour, fill, size, shift in (
        ("clean victims", clean, means[1], CLEAN, "white", 8.0, 0.16),
        ("poisoned victims", poisoned, means[0], POISONED, POISONED, 5.0, -0.16),
    ):
        look: dict[str, Any] = {"color": colour, "markerfacecolor": fill, "markeredgewidth": 1.6, "clip_on": False}
        marks += axes.plot(values, rows, "o", markersize=size, zorder=3, label=f"{label}: {rate(mean)}", **look)
        axes.errorbar(
            mean["mean"], below + shift, xerr=mean["se"], fmt="D", markersize=5.5, capsize=3, zorder=4, **look
        )
    axes.set_yticks([*rows, below], [*titles, "mean ± standard error" if len(titles) > 1 else "mean"])
    axes.tick_params(axis="y", length=0, pad=9, labelcolor=INK)
    axes.set_ylim(below + 0.55, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("victims that call the target the intended class")
    _legend(figure, marks[::-1])
    return figure


def _together(cases: Sequence[AdversarialLoss]) -> AdversarialLoss:
    """All cases as one, in which each line is the mean of a case's victims."""
    poisoned, clean = (np.stack([getattr(case, kind).mean(0) for case in cases]) for kind in ("poisoned", "clean"))
    return AdversarialLoss(f"{len(cases)} cases", cases[0].epochs, poisoned, clean)


def _multiples(count: int, headline: str, across: str, up: str) -> tuple[Figure, list[Axes]]:
    """A figure with `count` equal panels, at most four in a row, with common axes named by `across` and `up`."""
    columns = min(count, 4)
    rows = -(-count // columns)
    wide = 6.4 if columns == 1 else 2.75 * columns + 0.4
    figure = Figure(figsize=(wide, (3.0 if columns == 1 else 2.15 * rows) + 0.95), dpi=150)
    _headline(figure, headline)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for column in range(columns):  # a column that ends above the last row has its axis there
        last = (count - 1 - column) // columns
        grid[last, column].tick_params(labelbottom=True)
        grid[last, column].set_xlabel(across)
    for first in grid[:, 0]:
        first.set_ylabel(up)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _headline(figure: Figure, text: str) -> None:
    """The headline at the top left, and the layout of everything below it, with a margin all round."""
    width, height = figure.get_size_inches()
    x, y, band = 0.12 / width, 0.12 / height, 0.44 / height
    figure.text(x, 1 - y, text, ha="left", va="top", fontsize=11, fontweight="bold").set_in_layout(False)
    figure.set_layout_engine("constrained", rect=(x, y, 1 - 2 * x, 1 - y - band))


def _legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), labelcolor=INK)
