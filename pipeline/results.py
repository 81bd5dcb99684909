"""Results worth keeping: one JSON file each, with all that is needed to run it again, and the page made of them."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline import runs
from pipeline.provenance import doubts, provenance
from pipeline.report.comparison import comparison
from pipeline.result_file import Benchmark, Result, check, read, without_places, write
from pipeline.step import Ref
from pipeline.store import Store
from pipeline.sweep import kept
from pipeline.sweep.kept import SweepResult
from pipeline.sweep.trials import is_sweep
from pipeline.user_yaml import invalid
from stages.config import InputError, nearest
from stages.summarize import aligned

PAGE = "README.md"
HEAD = """# Results

Every table here is made from the JSON file beside it by `brewline results tables`; a test fails where the page is not
what the files give. Rates are mean ± standard error over cases; the clean columns are victims of the same seeds trained
without poisons. What is **marked** may not come out the same again.
"""


def add(store: Store, named: Sequence[str], name: str, folder: Path) -> Path:
    """Write `folder/name.json` from a finished run, or from sweeps. Raises InputError where one is not there or not
    finished, and where the folder is not."""
    if not folder.is_dir():
        raise InputError(f"--folder {folder}: there is no such folder; make it, or name the one of your results")
    if repeated := next((one for one in named if named.count(one) > 1), None):
        raise InputError(f"{repeated} is named more than once; name each sweep once")
    there = store.runs()
    if absent := next((one for one in named if one not in there), None):
        hint = nearest(absent, there) if there else "it has none"
        raise InputError(f"no run and no sweep {absent!r} in {store.url}; {hint}")
    runs_named = [one for one in named if not is_sweep(store, one)]
    if runs_named and len(named) > 1:
        raise InputError(f"{runs_named[0]} is a run, and a result is of one run, or of sweeps; name it alone")
    file = folder / f"{name}.json"
    write(_of_run(store, named[0], name) if runs_named else kept.kept(store, named, name), file)
    return file


def _of_run(store: Store, run: str, name: str) -> Result:
    steps = runs.planned(store, run)
    if any(step["stage"] == "tally" for step in steps):
        raise InputError(
            f"run {run} is of an attack without targets, which results do not keep; its table and figures are in "
            f"{store.place(f'runs/{run}')}"
        )
    manifests = [manifest for step in steps if (manifest := store.read(step["stage"], step["key"])) is not None]
    variants = {}
    for step in (step for step in steps if "variant" in step):
        with tempfile.TemporaryDirectory() as temporary:
            if not runs.fetch(store, Ref(step["stage"], step["key"]), Path(temporary)):
                raise InputError(f"run {run} is not finished: {step['label']} is not in {store.url}; run it again")
            figures = json.loads((Path(temporary) / runs.SUMMARY).read_text())
        experiment = without_places(runs.experiment_of(store, run, step["variant"]))
        variants[step["variant"]] = {"experiment": experiment, **figures}
    try:
        return Result(name=name, run=run, variants=variants, provenance=provenance(manifests))
    except ValidationError as error:
        raise invalid(f"result {name} of run {run}", error) from None


def page(folder: Path) -> str:
    """The page of tables: one section a result, in order of name, and then one a benchmark's figures."""
    return "\n".join([HEAD, *_sections(folder), *_benchmarks(folder)])


def _benchmarks(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("bench/*.json")):
        found = check(read(file), file, Benchmark)
        machine = found.machine
        yield f"## {file.stem}\n\n`make bench`: centre (median over rounds, mean over cases), least and most of n."
        yield (
            f"[{file.name}](bench/{file.name}): {machine['cpu']}, {machine['cores']} cores, {machine['threads']} "
            f"thread, torch {machine['torch']}; load at the end {machine['load_at_end'][0]:.1f}{_marked(machine)}.\n"
        )
        rows = [
            (
                f"{figure.what}, {figure.network}",
                *(str(value or "") for value in (figure.poisons, figure.micro_batch)),
                *(f"{value:.3f}" for value in (figure.centre, figure.least, figure.most)),
                str(figure.n),
            )
            for figure in found.figures
        ]
        yield f"```\n{aligned(('', 'P', 'batch', 'centre', 'least', 'most', 'n'), rows, left=0)}```\n"


def _sections(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.json")):
        data = read(file)
        result = check(data, file, SweepResult) if "sweeps" in data else check(data, file, Result)
        if result.name != file.stem:
            raise InputError(f"{file}: its name is {result.name!r}; a result's file is called by its name")
        yield from _of_sweeps(result, file) if isinstance(result, SweepResult) else _of_variants(result, file)


def _of_variants(result: Result, file: Path) -> Iterator[str]:
    first = next(iter(result.variants.values()))
    about, counts = first.experiment, first.summary["poison_success"]
    described = about["description"] or about["name"]
    yield f"## {result.name}\n\n{described}. {counts.cases} cases × {counts.victims} victims."
    yield f"[{file.name}]({file.name}): {_made(result.provenance)}.\n"
    rows = {variant or result.name: figures.model_dump() for variant, figures in result.variants.items()}
    papers = {variant or result.name: figures.paper_success for variant, figures in result.variants.items()}
    yield f"```\n{comparison(rows, papers)}```\n"
    if about["paper"]:
        yield f"The paper: {about['paper']}\n"


def _of_sweeps(result: SweepResult, file: Path) -> Iterator[str]:
    about = result.sweeps[0].spec
    yield f"## {result.name}\n\n" + ". ".join(one.spec.description or one.spec.name for one in result.sweeps) + "."
    yield f"[{file.name}]({file.name}): {_made(result.provenance)}.\n"
    yield "Made by " + ", ".join(f"`{command}`" for command in result.commands) + ".\n"
    yield from kept.sections(result)
    if about.paper:
        yield f"The paper: {about.paper}\n"


def _made(facts: Mapping[str, Any] | None) -> str:
    """Where a result comes from, and what stands against having it again."""
    if not facts:
        return "**nobody knows what made it**: its provenance is missing"
    hardware = facts["hardware"] if isinstance(facts["hardware"], str) else " / ".join(facts["hardware"])
    return f"{hardware}; {facts['step_seconds'] / 60:.0f} minutes of steps; {facts['started'][:10]}{_marked(facts)}"


def _marked(facts: Mapping[str, Any]) -> str:
    return "".join(f"; **{doubt}**" for doubt in doubts(facts))
