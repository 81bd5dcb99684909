"""The charts of a run: adversarial loss, brew loss and success, from plain numbers to figures and PNG files.

One style for all of them, whatever matplotlibrc the machine has, and nothing of pyplot's global state; the same numbers
give the same bytes. Poisoned and clean differ in hue, in lightness, and in line or marker, so that they stay apart for
colour-blind eyes and in print.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from stages.data.cases import heading
from stages.summarize import rate

INK, MUTED, FAINT = "#222222", "#6B6B6B", "#C9C9C9"
POISONED, CLEAN = "#C44E00", "#5AA5D6"
PANELS = 12
"""Most panels of small multiples in one picture."""
WIDE, NARROW = 11.4, 3.8
"""Inches that a picture may be wide: on a screen or a page, and on a phone, where text is as large."""

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
    """One case's brew: B at each step of each restart, and, once it is done, which restart was chosen and B of its
    finished poisons."""

    title: str
    restarts: Sequence[Sequence[float]]
    chosen: int | None
    final: float | None


def shorten(name: str, length: int) -> str:
    """A class name in at most `length` characters."""
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


def case_title(row: Mapping[str, Any], length: int) -> str:
    """The number of a case and what it is after, of a row of `summarize`; each class in at most `length` characters."""
    target, intended = row["target_class"], row["intended_class"]
    return f"{row['case']}: {heading(shorten(target, length), intended and shorten(intended, length))}"


def save(figure: Figure, file: Path) -> None:
    """Write a figure as PNG, without a date or a version in it."""
    with style.context(STYLE):
        FigureCanvasAgg(figure).print_png(str(file), metadata={"Software": None})


@style.context(STYLE)
def adversarial_loss(cases: Sequence[AdversarialLoss], width: float = WIDE) -> Figure:
    """The adversarial loss (see stages/evaluate.py) at each epoch: a thick mean, a thin line a victim.

    A panel a case; with more than `PANELS` cases one panel, in which the thin lines are the cases' means. After
    Witches' Brew, figure 9.
    """
    many = len(cases) > PANELS
    thin = "case" if many else "victim"
    headline = "Adversarial loss: is the target drifting to where the attacker wants it?"
    figure, panels = multiples(1 if many else len(cases), headline, "epoch", "loss (nats)", width)
    shown = [_together(cases)] if many else cases
    for panel, case in zip(panels, shown, strict=True):
        panel.set_title(case.title, loc="left")
        for losses, colour, dashes in ((case.clean, CLEAN, "--"), (case.poisoned, POISONED, "-")):
            marker = "o" if len(case.epochs) < 3 else None
            for line in losses:
                panel.plot(case.epochs, line, dashes, color=colour, alpha=0.4, linewidth=0.8)
            if len(losses):
                panel.plot(
                    case.epochs, losses.mean(0), dashes, color=colour, linewidth=2.2, marker=marker, markersize=4
                )
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylim(bottom=0)  # of all panels, and only now: it ends the scaling to what is drawn
    legend(
        figure,
        [
            Line2D([], [], color=POISONED, linewidth=2.2, label="poisoned victims, mean"),
            Line2D([], [], color=CLEAN, linewidth=2.2, linestyle="--", label="clean victims, mean"),
            Line2D([], [], color=MUTED, linewidth=0.8, alpha=0.6, label=f"one {thin}"),
        ],
    )
    return figure


@style.context(STYLE)
def brew_loss(cases: Sequence[BrewLoss], width: float = WIDE) -> Figure:
    """B at each step of each restart, the chosen restart in front; one panel a case, at most `PANELS`."""
    limit = "" if len(cases) <= PANELS else f" (the first {PANELS} of {len(cases)} cases)"
    headline = f"Brewing: the objective B at each step{limit}"
    figure, panels = multiples(min(len(cases), PANELS), headline, "step", "B", width)
    for panel, case in zip(panels, cases, strict=False):
        panel.set_title(case.title, loc="left")
        for restart, losses in enumerate(case.restarts):
            if restart != case.chosen:
                panel.plot(losses, color=MUTED, alpha=0.55, linewidth=0.9)
        if case.chosen is not None:
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
    legend(figure, lines)
    return figure


@style.context(STYLE)
def success(
    titles: Sequence[str],
    poisoned: Sequence[float],
    clean: Sequence[float],
    means: tuple[Mapping[str, Any], Mapping[str, Any]],
    paper: float | None = None,
    width: float = 7.2,
) -> Figure:
    """Success in each case, poisoned against clean (fractions of the victims), and below the mean ± standard error.

    means: `mean` and `se` over the cases (see `summarize.mean_and_error`), poisoned and clean.  paper: the figure that
    a paper has for the mean of the poisoned.
    """
    figure, axes = _pairs(titles, poisoned, clean, means, "How often is the target called what is intended?", width)
    axes.set_xlim(0, 1)
    label = "victims that call the target what the attacker intends"
    axes.set_xlabel("\n".join(textwrap.wrap(label, 24)) if width < 5 else label)
    if paper is not None:
        line = axes.axvline(paper, color=INK, linewidth=1.2, linestyle=":", label=f"the paper: {100 * paper:g} %")
        legend(figure, [line, *_marks(axes)])
    return figure


@style.context(STYLE)
def accuracy(
    titles: Sequence[str],
    poisoned: Sequence[float],
    clean: Sequence[float],
    means: tuple[Mapping[str, Any], Mapping[str, Any]],
    width: float = 7.2,
) -> Figure:
    """Accuracy on the test images that are no targets, drawn as `success` is; the axis is cut to what there is."""
    headline = "Would anybody notice? Accuracy on all other test images"
    figure, axes = _pairs(titles, poisoned, clean, means, headline, width)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("the axis does not begin at 0")
    return figure


def _pairs(
    titles: Sequence[str],
    poisoned: Sequence[float],
    clean: Sequence[float],
    means: tuple[Mapping[str, Any], Mapping[str, Any]],
    headline: str,
    width: float,
) -> tuple[Figure, Axes]:
    """A row a case with its rate poisoned and clean, and below the means ± standard error."""
    narrow = width < 5
    figure = Figure(figsize=(width, (2.4 if narrow else 1.75) + 0.27 * (len(titles) + 1)), dpi=150)
    headlined(figure, headline)
    axes = figure.add_subplot()
    rows = np.arange(len(titles))
    below = len(titles) + 0.5
    axes.hlines(rows, clean, poisoned, color=FAINT, linewidth=2, zorder=1)
    axes.axhline(len(titles) - 0.25, color=FAINT, linewidth=0.8)
    for label, values, mean, colour, fill, size, shift in (
        ("clean victims", clean, means[1], CLEAN, "white", 8.0, 0.16),
        ("poisoned victims", poisoned, means[0], POISONED, POISONED, 5.0, -0.16),
    ):
        look: dict[str, Any] = {"color": colour, "markerfacecolor": fill, "markeredgewidth": 1.6, "clip_on": False}
        axes.plot(values, rows, "o", markersize=size, zorder=3, label=f"{label}: {rate(mean)}", **look)
        axes.errorbar(
            mean["mean"], below + shift, xerr=mean["se"], fmt="D", markersize=5.5, capsize=3, zorder=4, **look
        )
    foot = "mean" if len(titles) == 1 else "mean ± s.e." if narrow else "mean ± standard error"
    axes.set_yticks([*rows, below], [*titles, foot])
    axes.tick_params(axis="y", length=0, pad=9, labelcolor=INK)
    axes.set_ylim(below + 0.55, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    legend(figure, _marks(axes))
    return figure, axes


def _marks(axes: Axes) -> list[Line2D]:
    """What stands for poisoned and clean victims in the legend."""
    return [line for line in reversed(axes.get_lines()) if str(line.get_label()).split()[0] in ("poisoned", "clean")]


def _together(cases: Sequence[AdversarialLoss]) -> AdversarialLoss:
    """All cases as one, in which each line is the mean of a case's victims."""
    poisoned, clean = (np.stack([getattr(case, kind).mean(0) for case in cases]) for kind in ("poisoned", "clean"))
    return AdversarialLoss(f"{len(cases)} cases", cases[0].epochs, poisoned, clean)


def multiples(
    count: int, headline: str, across: str, up: str, width: float, same_scale: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` equal panels, at most four in a row, with common axes named by `across` and `up`.

    same_scale: whether the panels show the same quantity, and so share the axis of it.
    """
    columns = max(1, min(count, 4, int(width / 1.7)))
    rows = -(-count // columns)
    wide = min(width, 6.4 if columns == 1 else 2.75 * columns + 0.4)
    tall = 3.0 if count == 1 else (2.15 if wide / columns > 2.2 else 1.7) * rows
    figure = Figure(figsize=(wide, tall + (0.95 if wide > 5 else 1.5)), dpi=150)
    headlined(figure, headline)
    grid = figure.subplots(rows, columns, sharex=True, sharey=same_scale, squeeze=False)
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


def headlined(figure: Figure, text: str) -> None:
    """The headline at the top left, and the layout of everything below it, with a margin all round."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(text, int(10.8 * (width - 0.24)))
    x, y, band = 0.12 / width, 0.12 / height, (0.25 + 0.19 * len(lines)) / height
    headline = figure.text(x, 1 - y, "\n".join(lines), ha="left", va="top", fontsize=11, fontweight="bold")
    headline.set_in_layout(False)
    figure.set_layout_engine("constrained", rect=(x, y, 1 - 2 * x, 1 - y - band))


def legend(figure: Figure, lines: Sequence[Artist]) -> None:
    """One legend, below everything, in a row or, where the figure is narrow, in a column."""
    for before in list(figure.legends):
        before.remove()
    width = figure.get_size_inches()[0]
    columns = len(lines) if width > 7 else 2 if width > 5 else 1
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, labelcolor=INK)
