"""The page of a sweep: what was asked, its best trials, what the settings do, and all trials."""

import shlex
from typing import Any

import yaml

from pipeline.provenance import doubts
from pipeline.report import again
from pipeline.report.drawing import drawn
from pipeline.report.page import FIGURES, PAGE, Report, asked, many, provenance_rows, render
from pipeline.report.sweep import SweepFound, is_number, setting, value_of
from pipeline.report.sweep_charts import label, of_sweep
from pipeline.report.tables import Cell, Column, Table, number
from pipeline.sweep.spec import Parameter
from pipeline.sweep.tables import STATES, figure
from pipeline.sweep.trials import Trial
from stages.figures import shorten

_SECTIONS = {"results": "Results", "curves": "Charts", "trials": "All trials", "provenance": "Provenance"}


def sweep_report(sweep: SweepFound) -> Report:
    """The page of a sweep, its charts as files, the sweep's own file and its base, and the best experiments' files."""
    files: dict[str, bytes] = {}
    charts = []
    for chart in of_sweep(sweep):
        made = drawn(chart)
        files |= {f"{FIGURES}/{name}": data for name, data in made.files.items()}
        charts.append({**vars(made), "folder": FIGURES})
    files |= {f"{run}.yaml": _yaml(experiment) for run, experiment in sweep.experiments.items()}
    file, base = f"{sweep.name}.yaml", f"{sweep.name}-base.yaml"
    # What ships under the base's name may change, and a file of the user's is not here.
    spec = _yaml({**sweep.spec.model_dump(mode="json"), "experiment": base, "settings": {}})
    files |= {file: spec, base: _yaml(sweep.base)}
    facts = dict(sweep.provenance or {})
    files[PAGE] = render(
        "sweep.html.j2",
        kind="Sweep",
        title=sweep.name,
        description=sweep.spec.description,
        sections=list(_SECTIONS.items()),
        notices=_notices(sweep),
        asked=_asked(sweep),
        base=asked(sweep.base),
        base_name=sweep.spec.experiment,
        paper=sweep.spec.paper,
        cards=_cards(sweep),
        best=[_best(sweep, trial) for trial in sweep.best],
        charts=charts,
        table=_table(sweep),
        command=shlex.join(["brewline", "sweep", file, "--store", sweep.url]),
        commands=[command for trial in sweep.best[:1] for command in _commands(sweep, trial)],
        doubts=[f"This result is {doubt}." for doubt in doubts(facts)] if facts else [],
        facts=[("sweep", sweep.name), ("store", sweep.url), *provenance_rows(facts)],
        files=[(file, spec.decode()), (base, files[base].decode())],
    )
    return Report(files)


def _yaml(data: Any) -> bytes:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True).encode()


def _asked(sweep: SweepFound) -> list[tuple[str, str]]:
    """The sweep's file, for people."""
    spec = sweep.spec
    given = ", ".join(f"{field} {shorten(setting(value), 40)}" for field, value in spec.settings.items())
    rows = [("base", spec.experiment + (f", with {given}" if given else ""))]
    rows += [(field, _parameter(parameter)) for field, parameter in spec.space.items()]
    rows.append(
        (
            "looked for",
            ", ".join(f"{'most' if metric.mode == 'max' else 'least'} {label(metric.name)}" for metric in spec.metrics),
        )
    )
    rows.append(("searcher", f"{spec.searcher.kind}, seed {spec.searcher.seed}"))
    halving = spec.scheduler
    rows.append(
        (
            "scheduler",
            f"ASHA on {halving.by}: after {many(halving.grace, 'case')}, the best 1/{halving.reduction} go on"
            if halving
            else "none: every trial runs to its end",
        )
    )
    budget = {"trials": spec.budget.trials, "hours": spec.budget.hours, "GPU-hours": spec.budget.gpu_hours}
    told = ", ".join(f"{value:g} {name}" for name, value in budget.items() if value is not None)
    return [*rows, ("budget", told or "none: all combinations"), ("at once", many(spec.concurrency, "trial"))]


def _parameter(parameter: Parameter) -> str:
    kinds = parameter.model_dump(exclude={"when"}, exclude_none=True)
    ((kind, values),) = kinds.items()
    told = ", ".join(map(setting, values)) if kind in ("choice", "grid") else " to ".join(map(setting, values))
    when = ", ".join(f"{field} is {setting(value)}" for field, value in parameter.when.items())
    return f"{told} ({kind.replace('_', '-')}{f', when {when}' if when else ''})"


def _best(sweep: SweepFound, trial: Trial) -> dict[str, Any]:
    names = dict.fromkeys([*(metric.name for metric in sweep.spec.metrics), "clean_success"])
    figures = ", ".join(f"{label(name)} {figure(trial, name)}" for name in names if name in trial.figures)
    settings = ", ".join(f"{field} {setting(value)}" for field, value in trial.settings.items())
    return {"number": trial.number, "figures": figures, "settings": settings, "run": trial.run}


def _commands(sweep: SweepFound, trial: Trial) -> list[tuple[str, str]]:
    """What may be done with a trial, and the commands for it."""
    if trial.run is None or trial.run not in sweep.experiments:
        return []
    report = shlex.join(["brewline", "report", trial.run, "-o", f"{trial.run}-report", "--store", sweep.url])
    return [
        (f"Trial {trial.number} again, or with more cases or victims:", again.command(f"{trial.run}.yaml", sweep.url)),
        ("Its own report; every trial is a run, and has one:", report),
    ]


def _cards(sweep: SweepFound) -> list[dict[str, Any]]:
    states = ", ".join(f"{count} {state}" for state in STATES if (count := sweep.count(state)))
    cards = [{"name": "trials", "figure": str(len(sweep.trials)), "note": states, "strong": False}]
    name = sweep.spec.metrics[0].name
    for trial in sweep.best[:1]:
        best = {"name": f"best {label(name)}", "figure": figure(trial, name), "strong": True}
        cards.insert(0, best | {"note": f"trial {trial.number}"})
    saved = {"name": "steps saved", "figure": "–" if sweep.saved is None else str(sweep.saved), "strong": False}
    told = "known at its end" if sweep.saved is None else f"of {sweep.steps}: trials share them"
    return [*cards, saved | {"note": told}]


def _notices(sweep: SweepFound) -> list[dict[str, str]]:
    running, failed = sweep.count("running"), sweep.count("failed")
    notices = []
    if running or not sweep.trials:
        text = f"{many(running, 'trial')} had not ended. Everything here is of those that are done so far."
        notices.append({"head": "The sweep is not finished.", "text": text})
    if failed:
        notices.append({"head": f"{many(failed, 'trial')} failed.", "text": "Why is in the table of all trials."})
    names = [metric.name for metric in sweep.spec.metrics]
    found = [tuple(value_of(trial, name) for name in names) for trial in sweep.measured(*names)]
    if len(found) > 1 and len(set(found)) == 1:
        same = " and ".join(map(label, names))
        text = f"All {len(found)} came to the same {same}; the first of them is shown as the best."
        notices.append({"head": "No trial is better than another.", "text": text})
    return notices


def _table(sweep: SweepFound) -> Table:
    found = [metric.name for metric in sweep.spec.metrics] + [name for one in sweep.trials for name in one.figures]
    figures = dict.fromkeys(name for name in found if not name.endswith("_se"))
    head = [Column("trial", True), Column("state")]
    head += [Column(field, all(map(is_number, _given(sweep, field)))) for field in sweep.spec.space]
    head += [Column(label(name), True) for name in figures]
    head += [Column(name, True) for name in ("cases", "seconds", "steps", "of them run")]
    head += [Column("run"), Column("why")]
    rows = []
    for trial in sweep.trials:
        row = [Cell(f"{trial.number}", trial.number, trial in sweep.best), Cell(trial.state)]
        for field, column in zip(sweep.spec.space, head[2:], strict=False):
            value = trial.settings.get(field)
            sorts = value if column.number else None
            row.append(Cell(setting(value), sorts) if field in trial.settings else Cell("–", ""))
        for name in figures:
            known = trial.figures.get(name)
            row.append(Cell("–", "") if known is None else Cell(figure(trial, name), known))
        row += [number(trial.cases, "{}"), number(trial.seconds, "{:.0f}")]
        row += [number(trial.steps, "{}"), number(trial.ran, "{}"), Cell(trial.run or ""), Cell(trial.why)]
        rows.append(row)
    return Table("All trials; the best are marked", head, [rows])


def _given(sweep: SweepFound, field: str) -> list[Any]:
    return [trial.settings[field] for trial in sweep.trials if field in trial.settings]
