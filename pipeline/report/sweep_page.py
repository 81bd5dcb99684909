"""The page of a sweep: its best trials, what the settings do, and all trials."""

import shlex
from typing import Any

import yaml

from pipeline.report.drawing import drawn
from pipeline.report.page import FIGURES, PAGE, Report, many, render
from pipeline.report.sweep import STATES, Sweep, Trial, is_number, setting
from pipeline.report.sweep_charts import is_rate, label, of_sweep
from pipeline.report.tables import Cell, Column, Table, number

_SECTIONS = {"results": "Results", "curves": "Charts", "trials": "All trials", "provenance": "Provenance"}


def sweep_report(sweep: Sweep, run: str, store: str) -> Report:
    """The page of a sweep, its charts as files, and its own file. run: its name in the store."""
    files: dict[str, bytes] = {}
    charts = []
    for chart in of_sweep(sweep):
        made = drawn(chart)
        files |= {f"{FIGURES}/{name}": data for name, data in made.files.items()}
        charts.append({**vars(made), "folder": FIGURES})
    file, spec = f"{run}.yaml", yaml.safe_dump(sweep.spec, sort_keys=False, allow_unicode=True)
    files[file] = spec.encode()
    by_number = {trial.number: trial for trial in sweep.trials}
    best = [by_number[of] for of in sweep.best if of in by_number]
    runs = [trial.run for trial in [*best, *sweep.trials] if trial.run]
    files[PAGE] = render(
        "sweep.html.j2",
        kind="Sweep",
        title=run,
        description=str(sweep.spec.get("description", "")),
        sections=list(_SECTIONS.items()),
        notices=_notices(sweep),
        cards=_cards(sweep, best),
        best=[_best(sweep, trial) for trial in best],
        charts=charts,
        table=_table(sweep, {trial.number for trial in best}),
        command=shlex.join(["brewline", "sweep", file, "--store", store]),
        report=shlex.join(["brewline", "report", runs[0] if runs else "RUN", "-o", "DIR", "--store", store]),
        file=file,
        spec=spec,
    )
    return Report(files)


def _figure(trial: Trial, name: str) -> str:
    if not trial.known(name):
        return "–"
    scale, digits, unit = (100, 1, " %") if is_rate(name) else (1, 4, "")
    error = trial.metrics.get(f"{name}_se")
    spread = "" if error is None else f" ± {scale * error:.{digits}f}"
    return f"{scale * trial.metric(name):.{digits}f}{spread}{unit}"


def _best(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    figures = ", ".join(f"{label(metric.name)} {_figure(trial, metric.name)}" for metric in sweep.metrics)
    settings = ", ".join(f"{field} {setting(value)}" for field, value in trial.settings.items())
    return {"number": trial.number, "figures": figures, "settings": settings, "run": trial.run}


def _cards(sweep: Sweep, best: list[Trial]) -> list[dict[str, Any]]:
    states = ", ".join(f"{count} {state}" for state in STATES if (count := sweep.count(state)))
    cards = [{"name": "trials", "figure": str(len(sweep.trials)), "note": states, "strong": False}]
    if best:
        name = sweep.metrics[0].name
        cards.insert(
            0,
            {
                "name": f"best {label(name)}",
                "figure": _figure(best[0], name),
                "note": f"trial {best[0].number}",
                "strong": True,
            },
        )
    steps = sum(trial.steps for trial in sweep.trials)
    saved = {"name": "steps saved", "figure": str(sweep.steps_saved), "strong": False}
    return [*cards, saved | {"note": f"of {steps}: trials share them, or they were in the store"}]


def _notices(sweep: Sweep) -> list[dict[str, str]]:
    running, failed = sweep.count("running"), sweep.count("failed")
    notices = []
    if running:
        text = f"{many(running, 'trial')} had not ended when it was written down last."
        notices.append({"head": "The sweep is not finished.", "text": text})
    if failed:
        notices.append({"head": f"{many(failed, 'trial')} failed.", "text": "Why is in the table of all trials."})
    return notices


def _table(sweep: Sweep, best: set[int]) -> Table:
    head = [Column("trial", True), Column("state")]
    head += [Column(field, all(map(is_number, _given(sweep, field)))) for field in sweep.fields]
    head += [Column(label(name), True) for name in sweep.figures]
    head += [Column("seconds", True), Column("steps", True), Column("shared", True), Column("run"), Column("why")]
    rows = []
    for trial in sweep.trials:
        row = [Cell(f"{trial.number}", trial.number, trial.number in best), Cell(trial.state)]
        for field in sweep.fields:
            value = trial.settings.get(field)
            row.append(Cell("–" if value is None else setting(value), value if is_number(value) else None))
        row += [
            Cell(_figure(trial, name), "" if not trial.known(name) else trial.metric(name)) for name in sweep.figures
        ]
        row += [number(trial.seconds, "{:.0f}"), number(trial.steps, "{}"), number(trial.steps_shared, "{}")]
        rows.append([*row, Cell(trial.run or ""), Cell(trial.why)])
    return Table("All trials; the best are marked", head, [rows])


def _given(sweep: Sweep, field: str) -> list[Any]:
    return [trial.settings[field] for trial in sweep.trials if field in trial.settings]
