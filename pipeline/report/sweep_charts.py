"""The charts of a sweep: a metric against each number that was swept, the Pareto front of two, and what mattered."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.report.drawing import Chart
from pipeline.report.sweep import Metric, Sweep, Trial, axes, lines, setting
from stages.figures import CLEAN, FAINT, INK, MUTED, POISONED, STYLE, headlined, legend, shorten

WIDTH = 5.8
"""Inches, at most."""
LINES = (
    (POISONED, "-", "o"),
    (CLEAN, "--", "s"),
    (INK, "-.", "^"),
    (MUTED, ":", "D"),
    (POISONED, ":", "v"),
    (CLEAN, "-.", "P"),
    (INK, "--", "X"),
)
"""Colour, dashes and marker of each line: any two differ in two of the three."""


def is_rate(name: str) -> bool:
    """Whether a figure is a part of something, shown in percent."""
    return "success" in name or "accuracy" in name


def label(name: str) -> str:
    """A figure's name for people."""
    return name.replace("_", " ")


def of_sweep(sweep: Sweep) -> list[Chart]:
    """What there is to draw of a sweep."""
    charts = [_response(sweep, field) for field in axes(sweep)]
    if len(sweep.metrics) > 1 and sweep.front():
        charts.append(_pareto(sweep))
    if sweep.importance:
        charts.append(_importance(sweep.importance))
    return charts


def _figure(width: float, headline: str, tall: float = 3.3) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(width, WIDTH), tall + (0.5 if width < WIDTH else 0)), dpi=150)
    headlined(figure, headline)
    return figure, figure.add_subplot()


def _rated(panel: Axes, name: str, up: bool) -> None:
    if is_rate(name):
        (panel.yaxis if up else panel.xaxis).set_major_formatter(PercentFormatter(1))
    if "success" in name:
        (panel.set_ylim if up else panel.set_xlim)(-0.03, 1.03)


@style.context(STYLE)
def _response_figure(sweep: Sweep, field: str, width: float) -> Figure:
    name = sweep.metrics[0].name
    figure, panel = _figure(width, f"{label(name).capitalize()} against {field}")
    split, values = lines(sweep, field)
    trials = [trial for trial in sweep.measured() if field in trial.settings]
    if split is None:
        _points(panel, trials, field, name)
    drawn = []
    for value, look in zip(values, LINES, strict=False):
        of_value = [trial for trial in trials if (split, value) in trial.settings.items()]
        drawn += _line(panel, of_value, field, name, look, f"{split} {setting(value)}")
    panel.set_xlabel(field)
    panel.set_ylabel(label(name))
    found = sweep.values(field)
    if found[0] > 0 and found[-1] >= 20 * found[0]:
        panel.set_xscale("log")
    elif len(found) <= 8:
        panel.set_xticks(found, [setting(value) for value in found])
    _rated(panel, name, up=True)
    if drawn:
        legend(figure, drawn)
    return figure


def _points(panel: Axes, trials: Sequence[Trial], field: str, name: str) -> None:
    """A point a trial, with its standard error."""
    for trial in trials:
        at = trial.settings[field], trial.metric(name)
        panel.errorbar(*at, yerr=trial.metrics.get(f"{name}_se"), fmt="o", color=POISONED, capsize=3, clip_on=False)


def _line(
    panel: Axes, trials: Sequence[Trial], field: str, name: str, look: tuple[str, str, str], told: str
) -> list[Any]:
    """A line through the means of the trials at each number; a bar where there is one trial, and the trials themselves
    where there are several."""
    colour, dashes, marker = look
    points = []
    for number in sorted({trial.settings[field] for trial in trials}):
        here = [trial for trial in trials if trial.settings[field] == number]
        heights = [trial.metric(name) for trial in here]
        points.append((number, sum(heights) / len(heights)))
        if len(here) == 1 and here[0].metrics.get(f"{name}_se") is not None:
            error = here[0].metrics[f"{name}_se"]
            panel.errorbar(number, heights[0], yerr=error, color=colour, capsize=3, linewidth=1.2, clip_on=False)
        elif len(here) > 1:
            panel.plot([number] * len(here), heights, marker, color=colour, alpha=0.35, markersize=4, clip_on=False)
    if not points:
        return []
    across, up = zip(*points, strict=True)
    return panel.plot(across, up, dashes, marker=marker, color=colour, markersize=5, clip_on=False, label=told)


def _response(sweep: Sweep, field: str) -> Chart:
    name, (split, values) = sweep.metrics[0].name, lines(sweep, field)
    by = f", a line for each of {len(values)} values of {split}" if split else ""
    note = "Bars are standard errors over cases."
    if len(sweep.fields) > 2:
        note += " Where trials differ in other fields too, they are faint, and the line goes through their mean."
    return Chart(
        f"against-{field.replace('.', '-')}",
        f"{label(name).capitalize()} against {field}{by}, of {len(sweep.measured())} trials.",
        note,
        partial(_response_figure, sweep, field),
    )


@style.context(STYLE)
def _pareto_figure(sweep: Sweep, width: float) -> Figure:
    first, second = sweep.metrics[:2]
    figure, panel = _figure(width, "What one metric costs in the other", 3.8)
    front = sweep.front()
    others = [trial for trial in sweep.measured(first.name, second.name) if trial not in front]

    def at(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
        return [trial.metric(first.name) for trial in trials], [trial.metric(second.name) for trial in trials]

    drawn = panel.plot(*at(others), "o", color=MUTED, alpha=0.6, markersize=5, clip_on=False, label="trials")
    drawn += panel.plot(*at(front), "D-", color=POISONED, markersize=6, clip_on=False, label="the front, by number")
    for trial in front:
        place = trial.metric(first.name), trial.metric(second.name)
        panel.annotate(str(trial.number), place, (4, 5), textcoords="offset points", fontsize=8, color=INK)
    panel.set_xlabel(_told(first))
    panel.set_ylabel(_told(second))
    panel.margins(0.08)
    _rated(panel, first.name, up=False)
    _rated(panel, second.name, up=True)
    legend(figure, drawn)
    return figure


def _told(metric: Metric) -> str:
    return f"{label(metric.name)} ({'more' if metric.mode == 'max' else 'less'} is better)"


def _pareto(sweep: Sweep) -> Chart:
    first, second = sweep.metrics[:2]
    numbers = ", ".join(str(trial.number) for trial in sweep.front())
    return Chart(
        "pareto",
        f"{label(first.name).capitalize()} against {label(second.name)}: the Pareto front has trials {numbers}.",
        "No trial is better than one of the front in both.",
        partial(_pareto_figure, sweep),
    )


@style.context(STYLE)
def _importance_figure(importance: dict[str, float], width: float) -> Figure:
    ranked = sorted(importance.items(), key=lambda pair: pair[1])
    figure, panel = _figure(width, "What mattered", 1.1 + 0.32 * len(ranked))
    narrow = width < WIDTH
    panel.barh(range(len(ranked)), [value for _, value in ranked], color=POISONED, height=0.62)
    panel.set_yticks(range(len(ranked)), [shorten(name, 20 if narrow else 40) for name, _ in ranked])
    panel.tick_params(axis="y", length=0, labelcolor=INK)
    panel.grid(axis="y", visible=False)
    panel.spines["left"].set_color(FAINT)
    panel.set_xlim(0, max(1e-9, *(value for _, value in ranked)) * 1.05)
    panel.set_xlabel("importance")
    return figure


def _importance(importance: dict[str, float]) -> Chart:
    ranked = sorted(importance.items(), key=lambda pair: -pair[1])
    return Chart(
        "importance",
        "Importance: " + ", ".join(f"{name} {value:.2f}" for name, value in ranked) + ".",
        "How much of the differences between trials each field explains.",
        partial(_importance_figure, importance),
    )
