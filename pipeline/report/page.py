"""The page of one run or of several side by side: what the templates show of what was collected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.provenance import doubts
from pipeline.report import again, charts, tables
from pipeline.report.collect import RunFound, VariantFound
from pipeline.report.drawing import Chart, Drawn, drawn
from pipeline.report.pictures import PAGE_BYTES, gallery
from pipeline.report.sweep import setting
from pipeline.step import SHOWN
from stages.summarize import RATES, rate

PAGE = "report.html"
FIGURES = "figures"

_SECTIONS = {
    "comparison": "Side by side",
    "results": "Results",
    "gallery": "Pictures",
    "curves": "Curves",
    "cases": "Cases",
    "steps": "Steps",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class Report:
    """A report as a folder holds it: file name -> content."""

    files: Mapping[str, bytes]


@dataclass(frozen=True)
class _Group:
    """One variant of one run, by the name that tells it from the others on the page."""

    label: str
    run: RunFound
    variant: VariantFound
    figures: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Of its charts' files."""
        return f"{FIGURES}/{self.label.replace(' ', '-')}" if self.label else FIGURES


def render(template: str, **values: Any) -> bytes:
    """A page of one of the templates; everything that is not a template's own is escaped."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    inlined = {
        name: environment.get_template(f"{name}.{kind}").render() for name, kind in (("style", "css"), ("script", "js"))
    }
    version = f"brewline {metadata.version('brewline')}"
    return environment.get_template(template).render(**inlined, version=version, **values).encode()


def report(runs: Sequence[RunFound]) -> Report:
    """The page of these runs, its charts as files, and the experiments' files. The same store gives the same bytes."""
    groups = _groups(runs)
    files: dict[str, bytes] = {}

    def draw(chart: Chart, folder: str) -> dict[str, Any]:
        made: Drawn = drawn(chart)
        files.update({f"{folder}/{name}": data for name, data in made.files.items()})
        return {**vars(made), "folder": folder}

    shown = []
    for number, group in enumerate(groups):
        pictures = [draw(chart, group.folder) for chart in charts.of_variant(group.variant)]
        rates = [one for one in pictures if one["chart"].name in ("success", "accuracy")]
        shown.append(
            {
                "id": f"g{number}",
                "label": group.label,
                "asked": asked(group.variant.experiment),
                "cards": _cards(group),
                "paper": group.variant.experiment.get("paper", ""),
                "rates": rates,
                "curves": [one for one in pictures if one not in rates],
                "table": tables.of_cases(group.figures, f"Cases of {group.label or group.run.run}"),
                **gallery(group.variant, PAGE_BYTES // len(groups)),
            }
        )
    comparison = _comparison(groups, draw) if len(groups) > 1 else None
    told = [_run(run) for run in runs]
    for one, run in zip(told, runs, strict=True):
        files[one["file"]] = one["experiment"].encode()
        one["command"] = again.command(one["file"], run.url)
    first = groups[0].variant.experiment
    files[PAGE] = render(
        "run.html.j2",
        kind="Comparison of runs" if len(runs) > 1 else "Run",
        title=" and ".join(run.run for run in runs),
        description=first["description"] if len(runs) == 1 else "",
        sections=[(name, label) for name, label in _SECTIONS.items() if comparison or name != "comparison"],
        notices=[notice for run in runs for notice in _notices(run)],
        comparison=comparison,
        groups=shown,
        pictures=any(case["poisons"] for group in shown for case in group["gallery"]),
        side_by_side=len(groups) > 1,
        runs=told,
    )
    return Report(files)


def _groups(runs: Sequence[RunFound]) -> list[_Group]:
    groups = []
    for run in runs:
        for variant in run.variants:
            words = [run.run] if len(runs) > 1 else []
            words += [variant.name] if variant.name else []
            groups.append(_Group(" ".join(words), run, variant, variant.figures()))
    return groups


def _comparison(groups: Sequence[_Group], draw: Any) -> dict[str, Any]:
    names, found = [group.label for group in groups], [group.figures for group in groups]
    table, pairs = tables.compared(names, found, all(group.variant.done for group in groups))
    note = (
        "All have the same cases, so each case is compared with itself: the differences are means over cases ± their "
        "standard error."
        if pairs
        else "They have different cases, or not all are evaluated yet, so nothing is compared in pairs."
    )
    return {
        "chart": draw(charts.comparison(names, [figures["summary"] for figures in found]), FIGURES),
        "table": table,
        "pairs": pairs,
        "names": names,
        "note": note,
        "by_case": tables.compared_by_case(names, found) if pairs else None,
    }


def asked(experiment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The experiment's main fields, for people."""
    attack, network, victims = experiment["attack"], experiment["network"], experiment["victims"]
    cases, surrogates, training = experiment["cases"], experiment["surrogates"], experiment["training"]
    size = [f"{name} {network[name]}" for name in ("depth", "width") if network.get(name)]
    bound = "no bound" if attack["eps"] is None else f"eps {attack['eps']:g}/255"
    rows = [
        ("dataset", str(experiment["dataset"]["kind"])),
        ("network", ", ".join([str(network["name"]), *size])),
        ("training", f"{training['epochs']} epochs, batch {training['batch_size']}, {training['optimizer']}"),
        ("attack", f"{attack['kind']}, {bound}, budget {100 * attack['budget']:g} %"),
    ]
    if "restarts" in attack:
        rows.append(
            (
                "brewing",
                f"{many(attack['restarts'], 'restart')} of {many(attack['steps'], 'step')}{_sought(attack)}",
            )
        )
        if race := attack.get("race"):
            after = " and ".join(map(str, race["at"]))
            rows.append(("raced", f"the best {100 * race['keep']:g} % go on after {after} steps"))
        members = surrogates.get("count") or max(
            len(surrogates.get("networks") or ()), len(surrogates.get("epochs") or ()), 1
        )
        staggered = (
            f", ending after {' '.join(map(str, surrogates['epochs']))} epochs" if surrogates.get("epochs") else ""
        )
        rows.append(("surrogates", f"{members}{staggered}"))
    seeds = {"cases": cases, "surrogates": surrogates, "attack": attack, "victims": victims}
    stated = [f"{name} {section['seed']}" for name, section in seeds.items() if section.get("seed") is not None]
    return [
        *rows,
        ("cases", f"{cases.get('count', len(cases.get('cases', ())))}, {cases['kind']}"),
        ("victims", f"{victims['count']} a case, and as many clean ones of the same seeds"),
        *((f"victims' {name}", setting(victims[name])) for name in ("network", "training") if victims.get(name)),
        *([("victims' setting", setting(victims["setting"]))] if "surrogate" in victims.get("setting", ()) else []),
        ("seeds", ", ".join(stated)),
    ]


def _sought(attack: Mapping[str, Any]) -> str:
    """What an attack makes small, where it leaves a choice."""
    found = attack.get("objective") or attack.get("adversarial_loss")
    return f", {found}" if found else ""


def many(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def _cards(group: _Group) -> list[dict[str, Any]]:
    """The figures that matter, each with how many cases it is of."""
    summary = group.figures["summary"]
    cards = []
    notes = {
        "poison_success": "avg. poison success",
        "clean_success": "the same, clean victims",
        "poisoned_accuracy": "accuracy, poisoned",
        "clean_accuracy": "accuracy, clean",
    }
    for name in RATES:
        mean = summary[name]
        of = f"{mean['known']} of {mean['cases']} cases" if mean["known"] < mean["cases"] else f"{mean['cases']} cases"
        figure = "–" if mean["mean"] is None else rate(mean)
        counted = f"{of} × {mean['victims']} victims"
        cards.append({"name": notes[name], "figure": figure, "note": counted, "strong": name == "poison_success"})
    paper = group.variant.experiment.get("paper_success")
    if paper is not None:
        cards.insert(
            1, {"name": "the paper's", "figure": f"{100 * paper:g} %", "note": "avg. poison success", "strong": False}
        )
    losses = tables.known_loss(group.figures)
    if losses["mean"] is not None:
        spread = "" if losses["se"] is None else f" ± {losses['se']:.3f}"
        cards.append(
            {
                "name": "brew loss B",
                "figure": f"{losses['mean']:.3f}{spread}",
                "note": "of the chosen poisons",
                "strong": False,
            }
        )
    return cards


def _notices(run: RunFound) -> list[dict[str, Any]]:
    """What a reader must know first: that a run is not done, and what failed."""
    if run.done:
        return []
    states = [
        f"{count} {state}" for state in ("done", "running", "failed", "blocked", "left") if (count := run.count(state))
    ]
    failed = [f"{step.label}: {step.note}" for step in run.steps if step.state == "failed"]
    text = f"{', '.join(states)} of {len(run.steps)} steps. Everything here is of what is done so far."
    return [{"head": f"{run.run} is not finished.", "text": text, "lines": failed[:20]}]


def _run(run: RunFound) -> dict[str, Any]:
    """Steps and provenance of a run."""
    cached, done = sum(step.cached for step in run.steps), run.count("done")
    facts = run.provenance or {}
    told = f"{len(run.steps)} steps, {done} done: {done - cached} by this run, {cached} were in the store already"
    summaries = {step.label: step.key for step in run.steps if step.stage == "summarize"}
    rows = [("run", run.run), ("store", run.url), *provenance_rows(facts)]
    rows += [(f"key, {label}", key[:SHOWN]) for label, key in summaries.items()]
    return {
        "name": run.run,
        "told": f"{told}.",
        "count": len(run.steps),
        "stages": tables.of_stages(run),
        "steps": tables.of_steps(run),
        "doubts": [f"This result is {doubt}." for doubt in doubts(facts)] if facts else [],
        "facts": rows,
        "file": f"{run.run}.yaml",
        "experiment": again.experiment_file({variant.name: variant.experiment for variant in run.variants}),
    }


def provenance_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `provenance` found, for people; of nothing yet, that it is nothing."""
    rest = dict(facts)
    rest.pop("steps", None)
    began, seconds = str(rest.pop("started", "nothing is done yet")), rest.pop("step_seconds", 0)
    rows = [("began", began.replace("T", " ")), ("time of all steps", f"{seconds / 60:.1f} minutes")]
    return rows + [(name, " / ".join(value) if isinstance(value, list) else str(value)) for name, value in rest.items()]
