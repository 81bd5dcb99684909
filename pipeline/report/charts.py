"""The charts of a run and of its variants, of whatever is done so far."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.report.collect import CaseFound, Curves, VariantFound
from pipeline.report.drawing import Chart
from stages import figures
from stages.figures import CLEAN, INK, POISONED, STYLE, WIDE, shorten
from stages.summarize import rate

ROWS_WIDE = 5.8
"""Inches that a chart of rows may be wide: two have room beside each other."""
MOST_LINES = 48
"""Networks of a kind that have a line each in the chart of training."""


def of_variant(variant: VariantFound) -> list[Chart]:
    """The charts of one variant, of what there is."""
    found = variant.figures()
    known = [row for row in found["cases"] if row["success"] is not None and row["clean_success"] is not None]
    charts = []
    if known:
        charts += _rates(variant, known, found["summary"])
    watched = [case for case in variant.cases if case.poisoned or case.clean]
    if watched:
        charts.append(_adversarial(watched))
    brewed = [case for case in variant.cases if case.restarts]
    if brewed:
        charts.append(_brews(brewed))
    if any(variant.trained.values()):
        charts.append(_training(variant.trained))
    aligned = [curves for curves in variant.trained["poisoned"].values() if "alignment" in curves]
    if aligned:
        charts.append(_alignment(aligned))
    return charts


def _rates(variant: VariantFound, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Chart]:
    paper = variant.experiment.get("paper_success")

    def titles(width: float) -> list[str]:
        length = 7 if width < WIDE else 16
        return [figures.case_title(row, length) for row in rows]

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    def success(width: float) -> Figure:
        means = summary["poison_success"], summary["clean_success"]
        poisoned, clean = column("success"), column("clean_success")
        return figures.success(titles(width), poisoned, clean, means, paper, min(width, ROWS_WIDE))

    def accuracy(width: float) -> Figure:
        means = summary["poisoned_accuracy"], summary["clean_accuracy"]
        poisoned, clean = column("poisoned_accuracy"), column("clean_accuracy")
        return figures.accuracy(titles(width), poisoned, clean, means, min(width, ROWS_WIDE))

    said = {name: rate(figure) for name, figure in summary.items()}
    beside = "" if paper is None else f", the paper's figure is {100 * paper:g} %"
    return [
        Chart(
            "success",
            f"Poison success by case: poisoned victims {said['poison_success']}, clean victims "
            f"{said['clean_success']} on average{beside}.",
            "A row a case: the part of its victims that call the target what is intended. Below, the mean over cases "
            "± its standard error.",
            success,
        ),
        Chart(
            "accuracy",
            f"Accuracy by case: poisoned victims {said['poisoned_accuracy']}, clean victims {said['clean_accuracy']} "
            "on average.",
            "The same victims on all test images that are no targets.",
            accuracy,
        ),
    ]


def _adversarial(cases: Sequence[CaseFound]) -> Chart:
    def losses(case: CaseFound, kind: str, epochs: int) -> np.ndarray:
        found = getattr(case, kind).values()
        return np.array([one["curves"]["adversarial_loss"] for one in found]).reshape(len(found), epochs)

    def draw(width: float) -> Figure:
        shown = []
        for case in cases:
            epochs = next(iter({**case.poisoned, **case.clean}.values()))["curves"]["epochs"]
            title = shorten(case.title, 22 if width < WIDE else 30)
            poisoned, clean = (losses(case, kind, len(epochs)) for kind in ("poisoned", "clean"))
            shown.append(figures.AdversarialLoss(title, epochs, poisoned, clean))
        whole = [case for case in shown if len(case.poisoned) and len(case.clean)]
        return figures.adversarial_loss(whole if len(shown) > figures.PANELS and whole else shown, width)

    return Chart(
        "adversarial-loss",
        f"Adversarial loss of the target over the epochs of the victims' training, {len(cases)} "
        "cases, poisoned victims against clean ones.",
        "Where the poisoned victims' loss falls and the clean ones' does not, training is drawn to what the attacker "
        "intends.",
        draw,
    )


def _brews(cases: Sequence[CaseFound]) -> Chart:
    def draw(width: float) -> Figure:
        shown = []
        for case in cases:
            # The brew of a restart may be gone from the store, while who was chosen is known.
            lines = [case.restarts.get(number, ()) for number in range(max(case.restarts) + 1)]
            chosen = case.chosen if case.chosen in case.restarts else None
            title = shorten(case.title, 22 if width < WIDE else 30)
            shown.append(figures.BrewLoss(title, lines, chosen, case.B))
        return figures.brew_loss(shown, width)

    known = [f"case {case.number} ends at B = {case.B:.3f}" for case in cases if case.B is not None]
    return Chart(
        "brew-loss",
        f"The objective B over the steps of each restart, {len(cases)} cases: {'; '.join(known) or 'none is done'}.",
        "B is 0 where the poisons' gradient points as the attacker wants; the restart with the least is taken.",
        draw,
    )


KINDS = {
    "poisoned": ("poisoned victims", POISONED, "-"),
    "clean": ("clean victims", CLEAN, "--"),
    "surrogate": ("surrogates", INK, ":"),
}
"""In the order in which they are drawn: what is fewer lies above."""


@style.context(STYLE)
def _training_figure(trained: Mapping[str, Mapping[str, Curves]], width: float) -> Figure:
    figure, panels = figures.multiples(2, "Training: loss and accuracy on the train images", "epoch", "", width, False)
    lines: list[Line2D] = []
    for panel, what, unit in zip(panels, ("loss", "accuracy"), ("loss (nats)", "accuracy"), strict=True):
        panel.set_ylabel(unit)
        for kind, (name, colour, dashes) in KINDS.items():
            found = [curves[what] for curves in trained[kind].values()]
            _bundle(panel, found, dashes, colour)
            if found and what == "loss":
                lines += panel.plot([], [], dashes, color=colour, linewidth=1.6, label=f"{len(found)} {name}")
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    figures.legend(figure, lines)
    return figure


def _bundle(panel: Axes, found: Sequence[Sequence[float]], dashes: str, colour: str) -> None:
    """A line each; of more than can be told apart their range and their mean."""
    if len(found) > MOST_LINES and len({len(line) for line in found}) == 1:
        epochs = range(1, len(found[0]) + 1)
        panel.fill_between(epochs, np.min(found, axis=0), np.max(found, axis=0), color=colour, alpha=0.25, linewidth=0)
        found = [np.mean(found, axis=0)]
    for line in found:
        panel.plot(range(1, len(line) + 1), line, dashes, color=colour, alpha=0.6, linewidth=1.0)


def _training(trained: Mapping[str, Mapping[str, Curves]]) -> Chart:
    counts = ", ".join(f"{len(found)} {KINDS[kind][0]}" for kind, found in trained.items() if found)
    return Chart(
        "training",
        f"Loss and accuracy on the train images over the epochs of {counts}.",
        f"A line a network; of more than {MOST_LINES} their range and mean. Victims with and without poisons train "
        "alike: the loss does not tell them apart.",
        partial(_training_figure, trained),
    )


@style.context(STYLE)
def _alignment_figure(found: Sequence[Curves], width: float) -> Figure:
    figure, (panel,) = figures.multiples(1, "Do the gradients agree in the victims?", "epoch", "cosine", width)
    panel.axhline(0, color=INK, linewidth=0.8)
    for curves in found:
        panel.plot(curves["watched_epochs"], curves["alignment"], color=POISONED, alpha=0.4, linewidth=0.8)
    mean = np.mean([curves["alignment"] for curves in found], axis=0)
    lines = panel.plot(found[0]["watched_epochs"], mean, color=POISONED, linewidth=2.2, label="mean")
    thin = Line2D([], [], color=POISONED, alpha=0.5, linewidth=0.8, label="one poisoned victim")
    figures.legend(figure, [*lines, thin])
    return figure


def _alignment(found: Sequence[Curves]) -> Chart:
    last = np.mean([curves["alignment"][-1] for curves in found])
    return Chart(
        "alignment",
        f"Cosine of the gradients of poisons and targets over the epochs of {len(found)} poisoned victims, "
        f"{last:.2f} on average at the end.",
        "Above 0, a step on the poisons is a step towards calling the target what the attacker intends.",
        partial(_alignment_figure, found),
    )


@style.context(STYLE)
def _compared(names: Sequence[str], summaries: Sequence[Mapping[str, Any]], width: float) -> Figure:
    narrow = width < WIDE
    figure = Figure(figsize=(min(width, ROWS_WIDE), (2.1 if narrow else 1.5) + 0.5 * len(names)), dpi=150)
    figures.headlined(figure, "Success of the variants, mean ± standard error")
    axes = figure.add_subplot()
    for field, colour, fill, shift in (
        ("clean_success", CLEAN, "white", 0.14),
        ("poison_success", POISONED, POISONED, -0.14),
    ):
        look: dict[str, Any] = {"color": colour, "markerfacecolor": fill, "markeredgewidth": 1.6, "clip_on": False}
        for row, summary in enumerate(summaries):
            mean = summary[field]
            if mean["mean"] is not None:
                axes.errorbar(mean["mean"], row + shift, xerr=mean["se"], fmt="D", capsize=3, **look)
    length = 16 if narrow else 34
    shown = [name if len(name) <= length else "…" + name[1 - length :] for name in names]  # they differ at their ends
    axes.set_yticks(range(len(names)), shown)
    axes.tick_params(axis="y", length=0, pad=9, labelcolor=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    marks = [
        Line2D([], [], marker="D", linestyle="", color=POISONED, label="poisoned victims"),
        Line2D([], [], marker="D", linestyle="", color=CLEAN, markerfacecolor="white", label="clean victims"),
    ]
    figures.legend(figure, marks)
    return figure


def comparison(names: Sequence[str], summaries: Sequence[Mapping[str, Any]]) -> Chart:
    """The success of several variants beside each other."""
    said = "; ".join(
        f"{name} {rate(summary['poison_success'])}"
        for name, summary in zip(names, summaries, strict=True)
        if summary["poison_success"]["mean"] is not None
    )
    return Chart(
        "comparison",
        f"Avg. poison success of {len(names)} variants: {said or 'none has any yet'}.",
        "Means over cases ± standard error.",
        partial(_compared, names, summaries),
    )
