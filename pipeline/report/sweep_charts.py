"""The charts of a sweep: a metric against each number that was swept, the Pareto front of two, and what mattered."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.report.drawing import Chart
from pipeline.report.sweep import SweepFound, setting, value_of
from pipeline.sweep.spec import Metric
from pipeline.sweep.trials import Trial
from stages.figures import CLEAN, FAINT, INK, MUTED, POISONED, STYLE, headlined, legend, multiples, shorten
from stages.summarize import RATES

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
MOST_JOINED = 12
"""Points of more places than these are drawn without a line: they were drawn at random."""


AXES = {
    "attack.eps": "attack.eps (of 255)",
    "attack.budget": "attack.budget (part of train set)",
    "brew_loss": "brew loss B",
    "gpu_seconds": "GPU time (s)",
    "step_seconds": "all steps (s)",
}
"""What stands at an axis, where the name alone does not say the unit."""


def is_rate(name: str) -> bool:
    """Whether a figure is a part of something, shown in percent."""
    return name in RATES or name == "validation_accuracy"


def label(name: str) -> str:
    """A field's or a figure's name for people."""
    return name if "." in name else AXES.get(name, name.replace("_", " "))


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _far_apart(numbers: Sequence[float]) -> bool:
    """Whether ascending numbers are told apart on a logarithmic axis alone."""
    return numbers[0] > 0 and numbers[-1] >= 20 * numbers[0]


def of_sweep(sweep: SweepFound) -> list[Chart]:
    """What there is to draw of a sweep."""
    names = dict.fromkeys([sweep.spec.metrics[0].name, "brew_loss"])  # B tells more where success is all or nothing
    charts = [_response(sweep, field, name) for field in sweep.axes() for name in names if sweep.measured(name)]
    if len(sweep.spec.metrics) > 1 and sweep.best:
        charts.append(_pareto(sweep))
    if sweep.importance:
        charts.append(_importance(sweep.importance, label(sweep.spec.metrics[0].name)))
    return charts


def _rated(panel: Axes, name: str, up: bool) -> None:
    if is_rate(name):
        (panel.yaxis if up else panel.xaxis).set_major_formatter(PercentFormatter(1))
    if "success" in name:
        (panel.set_ylim if up else panel.set_xlim)(-0.03, 1.03)


@style.context(STYLE)
def _response_figure(sweep: SweepFound, field: str, name: str, width: float) -> Figure:
    split, apart = sweep.split(field)
    shown, wide = sweep.values(apart) if apart else [None], width > WIDTH
    headline = f"{_sentence(label(name))} against {field}"
    across = "\n".join(textwrap.wrap(AXES.get(field, field), 48 if len(shown) == 1 else 36 if wide else 20))
    figure, panels = multiples(len(shown), headline, across, label(name), min(width, WIDTH))
    for panel, value in zip(panels, shown, strict=True):
        if apart:
            words = shorten(apart, 24), shorten(setting(value), 24)
            panel.set_title((" " if wide and len("".join(words)) < 34 else "\n").join(words), loc="left")
        _panel(panel, sweep, field, name, split, {apart: value} if apart else {})
    found = sweep.values(field)
    if _far_apart(found):
        panels[0].set_xscale("log")
    elif len(found) <= 6:
        panels[0].set_xticks(found, [setting(value) for value in found])
    panels[0].margins(x=0.08)
    if not is_rate(name):
        panels[0].set_ylim(bottom=0)
    _rated(panels[0], name, up=True)
    lines = [line for panel in panels for line in panel.get_lines() if not str(line.get_label()).startswith("_")]
    marks = {line.get_label(): line for line in lines}
    if len(marks) > 1:
        legend(figure, list(marks.values()))
    return figure


def _panel(panel: Axes, sweep: SweepFound, field: str, name: str, split: str | None, fixed: Mapping[str, Any]) -> None:
    """The trials of these settings: a line for each value of `split`, and what clean victims come to."""

    def of(state: str) -> list[Trial]:
        return [
            trial
            for trial in sweep.measured(name, state=state)
            if field in trial.settings and all(trial.settings.get(one) == value for one, value in fixed.items())
        ]

    done = of("done")
    clean = [value for trial in done if (value := trial.figures.get("clean_success")) is not None]
    if name == "poison_success" and clean:
        panel.axhline(fmean(clean), color=INK, linewidth=1.0, linestyle=(0, (1, 3)), label="clean victims, mean")
    values, places = sweep.values(split) if split else [None], sweep.values(field)
    room = 0 if _far_apart(places) else 0.02 * (places[-1] - places[0])
    for number, (value, look) in enumerate(zip(values, LINES, strict=False)):
        trials = [trial for trial in done if split is None or trial.settings.get(split) == value]
        told = f"{split} {setting(value)}" if split else "a trial"
        _line(panel, trials, field, name, look, told, room * (number - (len(values) - 1) / 2))
    if early := of("stopped"):
        at = [trial.settings[field] for trial in early], [value_of(trial, name) for trial in early]
        panel.plot(*at, "x", color=MUTED, markersize=4, clip_on=False, label="stopped early, of some cases")


def _line(
    panel: Axes,
    trials: Sequence[Trial],
    field: str,
    name: str,
    look: tuple[str, str, str],
    told: str,
    aside: float,
) -> None:
    """A line through the means of the trials at each number, unless these are many; a bar where there is one trial, and
    the trials themselves where there are several. aside: by how much it is moved, so that no bar hides another."""
    colour, dashes, marker = look
    kept: dict[str, Any] = {"color": colour, "clip_on": False}
    points = []
    for number in sorted({trial.settings[field] for trial in trials}):
        here = [trial for trial in trials if trial.settings[field] == number]
        heights = [value_of(trial, name) for trial in here]
        across = number + aside
        points.append((across, fmean(heights)))
        error = here[0].figures.get(f"{name}_se")
        if len(here) == 1 and error is not None:
            panel.errorbar(across, heights[0], yerr=error, capsize=3, linewidth=1.2, **kept)
        elif len(here) > 1:
            panel.plot([across] * len(here), heights, marker, alpha=0.35, markersize=4, **kept)
    if len(points) > MOST_JOINED:
        dashes = ""
    panel.plot(
        *zip(*points, strict=True) if points else ([], []), dashes, marker=marker, markersize=5, label=told, **kept
    )


def _response(sweep: SweepFound, field: str, name: str) -> Chart:
    split, apart = sweep.split(field)
    by = f", a line for each {split}" if split else ""
    by += f", a panel for each {apart}" if apart else ""
    trials = [trial for trial in sweep.measured(name) if field in trial.settings]
    note = "A trial's bar is its standard error over cases."
    told = [one for one in (field, split, apart) if one]
    if len({str([trial.settings.get(one) for one in told]) for trial in trials}) < len(trials):
        note += " Trials that differ in other fields are faint, and the line goes through their mean."
    return Chart(
        f"{name.replace('_', '-')}-against-{field.replace('.', '-')}",
        f"{_sentence(label(name))} against {field}{by}, of {len(trials)} trials.",
        note,
        partial(_response_figure, sweep, field, name),
    )


@style.context(STYLE)
def _pareto_figure(sweep: SweepFound, width: float) -> Figure:
    first, second = sweep.spec.metrics[:2]
    figure, (panel,) = multiples(
        1, "What one metric costs in the other", _told(first), _told(second), min(width, WIDTH)
    )
    others = [trial for trial in sweep.measured(first.name, second.name) if trial not in sweep.best]

    def at(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
        return [value_of(trial, first.name) for trial in trials], [value_of(trial, second.name) for trial in trials]

    panel.plot(*at(others), "o", color=MUTED, alpha=0.6, markersize=5, clip_on=False, label="other trials")
    panel.plot(*at(sweep.best), "D", color=POISONED, markersize=6, clip_on=False, label="the front, by number")
    for number, across, up in zip([trial.number for trial in sweep.best], *at(sweep.best), strict=True):
        panel.annotate(str(number), (across, up), (4, 5), textcoords="offset points", fontsize=8, color=INK)
    panel.margins(0.08)
    _rated(panel, first.name, up=False)
    _rated(panel, second.name, up=True)
    legend(figure, panel.get_lines())
    return figure


def _told(metric: Metric) -> str:
    return f"{label(metric.name)} ({'more' if metric.mode == 'max' else 'less'} is better)"


def _pareto(sweep: SweepFound) -> Chart:
    first, second = sweep.spec.metrics[:2]
    numbers = ", ".join(str(trial.number) for trial in sweep.best)
    return Chart(
        "pareto",
        f"{_sentence(label(first.name))} against {label(second.name)}: the Pareto front has trials {numbers}.",
        f"No trial is better than one of the front in {'both' if len(sweep.spec.metrics) == 2 else 'all metrics'}.",
        partial(_pareto_figure, sweep),
    )


@style.context(STYLE)
def _importance_figure(importance: Mapping[str, float], what: str, width: float) -> Figure:
    ranked = sorted(importance.items(), key=lambda pair: pair[1])
    figure = Figure(figsize=(min(width, WIDTH), 1.1 + 0.32 * len(ranked)), dpi=150)
    headlined(figure, f"What mattered for {what}")
    panel = figure.add_subplot()
    narrow = width < WIDTH
    panel.barh(range(len(ranked)), [value for _, value in ranked], color=POISONED, height=0.62)
    panel.set_yticks(range(len(ranked)), [shorten(name, 20 if narrow else 40) for name, _ in ranked])
    panel.tick_params(axis="y", length=0, labelcolor=INK)
    panel.grid(axis="y", visible=False)
    panel.spines["left"].set_color(FAINT)
    panel.set_xlim(0, max(1e-9, *(value for _, value in ranked)) * 1.05)
    panel.set_xlabel("part of the variance")
    return figure


def _importance(importance: Mapping[str, float], what: str) -> Chart:
    ranked = sorted(importance.items(), key=lambda pair: -pair[1])
    return Chart(
        "importance",
        f"Importance for {what}: " + ", ".join(f"{name} {value:.2f}" for name, value in ranked) + ".",
        "How much of the variance between trials each field explains (fANOVA, Hutter et al. 2014).",
        partial(_importance_figure, importance, what),
    )
