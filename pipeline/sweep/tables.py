"""Tables of a sweep's trials: for people, as CSV, and which of them are the best."""

import csv
import io
import json
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.progress import duration
from pipeline.sweep.spec import Spec
from pipeline.sweep.trials import Trial
from stages.summarize import RATES, aligned

STATES = ("done", "stopped", "failed", "running")


def front(spec: Spec, trials: Sequence[Trial]) -> list[int]:
    """The best trial that is done, the first of equal ones; with several metrics all that no other betters in one
    without falling behind in another."""
    signs = [1 if metric.mode == "max" else -1 for metric in spec.metrics]
    found: dict[int, list[float]] = {}
    for trial in trials:
        values = [trial.figures.get(metric.name) for metric in spec.metrics]
        if trial.state == "done" and None not in values:
            found[trial.number] = [sign * (value or 0.0) for sign, value in zip(signs, values, strict=True)]

    def bettered(values: list[float]) -> bool:
        return any(other != values and all(map(operator.ge, other, values)) for other in found.values())

    best = [number for number, values in found.items() if not bettered(values)]
    return best[:1] if len(signs) == 1 else best


def columns(spec: Spec) -> list[str]:
    """The metrics to show: those asked for, and beside poison success its control, the clean victims'."""
    names = [metric.name for metric in spec.metrics]
    if "poison_success" in names:
        names.insert(names.index("poison_success") + 1, "clean_success")
    return list(dict.fromkeys(names))


def figure(trial: Trial, name: str) -> str:
    """A trial's metric for people; rates in percent, with their standard error."""
    value, error = trial.figures.get(name), trial.figures.get(f"{name}_se")
    if value is None:
        return "-"
    scale, digits, unit = (100, 1, " %") if name in RATES or name == "validation_accuracy" else (1, 4, "")
    if name.endswith("_seconds"):
        digits = 0
    spread = "" if error is None else f" ± {scale * error:.{digits}f}"
    return f"{scale * value:.{digits}f}{spread}{unit}"


def table(spec: Spec, trials: Sequence[Trial], best: Sequence[int]) -> str:
    """The trials that are no more running, the best first, then by the first metric."""
    sign, first = (-1 if spec.metrics[0].mode == "max" else 1), spec.metrics[0].name

    def order(trial: Trial) -> tuple[bool, int, float]:
        value = trial.figures.get(first)
        return trial.number not in best, STATES.index(trial.state), float("inf") if value is None else sign * value

    rows = [
        (
            str(trial.number),
            *(value_of(trial.settings.get(path, "")) for path in spec.space),
            *(figure(trial, name) for name in columns(spec)),
            str(trial.cases),
            f"{trial.state}{', best' if trial.number in best else ''}",
        )
        for trial in sorted(trials, key=order)
        if trial.state != "running"
    ]
    return aligned(("trial", *spec.space, *columns(spec), "cases", "state"), rows)


def as_csv(spec: Spec, trials: Iterable[Trial]) -> str:
    """One line a trial; settings in full, as JSON unless they are text."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *spec.space, "state", "cases", *names, "seconds", "steps", "ran", "run", "why"])
    for trial in trials:
        settings = (_in_full(trial.settings.get(path, "")) for path in spec.space)
        figures = (trial.figures.get(name, "") for name in names)
        rest = (round(trial.seconds, 3), trial.steps, trial.ran, trial.run or "", trial.why)
        writer.writerow([trial.number, *settings, trial.state, trial.cases, *figures, *rest])
    return text.getvalue()


def _in_full(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def value_of(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def written(settings: dict[str, Any]) -> str:
    return " ".join(f"{path}={value_of(value)}" for path, value in settings.items())


def figures_of(spec: Spec, trial: Trial) -> str:
    found = ", ".join(f"{name} {figure(trial, name)}" for name in columns(spec))
    return f"{found}; {trial.ran} of {trial.steps} steps run, {duration(trial.seconds)}"
