"""Results worth keeping: one JSON file each, with all that is needed to run it again, and the page made of them."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import runs
from pipeline.report import comparison
from pipeline.step import Ref
from pipeline.store import Manifest, Store
from stages.config import InputError
from stages.summarize import aligned

PAGE = "README.md"
HEAD = """# Results

Every table here is made from the JSON file beside it by `brewline results tables`; a test fails where the page is not
what the files give. Rates are mean ± standard error over cases; the clean columns are victims of the same seeds trained
without poisons.
"""


def add(store: Store, run: str, name: str, folder: Path) -> Path:
    """Write `folder/name.json` from a finished run. Raises InputError where the run is not there or not finished."""
    steps = runs.planned(store, run)
    manifests = [manifest for step in steps if (manifest := store.read(step["stage"], step["key"])) is not None]
    variants = {}
    for step in (step for step in steps if "variant" in step):
        with tempfile.TemporaryDirectory() as temporary:
            if not runs.fetch(store, Ref(step["stage"], step["key"]), Path(temporary)):
                raise InputError(f"run {run} is not finished: {step['label']} is not in {store.url}; run it again")
            figures = json.loads((Path(temporary) / runs.SUMMARY).read_text())
        experiment = _without_places(runs.experiment_of(store, run, step["variant"]))
        variants[step["variant"]] = {"experiment": experiment, **figures}
    result = {
        "name": name,
        "run": run,
        "variants": variants,
        "provenance": provenance(manifests),
    }
    file = folder / f"{name}.json"
    file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return file


def _without_places(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment without what is of one machine only: folders and the runtime."""
    kept = {name: value for name, value in experiment.items() if name != "runtime"}
    for section, place in (("dataset", "root"), ("cases", "file")):
        kept[section] = {name: value for name, value in kept[section].items() if name != place}
    if folders := kept["attack"].get("folders"):
        kept["attack"] = kept["attack"] | {"folders": [{"sha256": folder["sha256"]} for folder in folders]}
    return kept


def provenance(manifests: list[Manifest]) -> dict[str, Any]:
    """Where the steps ran and with what: each fact once, as a list where steps differ."""
    facts: dict[str, set[str]] = {}
    for manifest in manifests:
        found = manifest.provenance
        for name, value in {"hardware": found.get("hardware", "not recorded"), **found["versions"]}.items():
            facts.setdefault(name, set()).add(value)
    seconds = sum(manifest.provenance["seconds"] for manifest in manifests)
    started = min(manifest.provenance["started"] for manifest in manifests)
    same = {name: values.pop() if len(values) == 1 else sorted(values) for name, values in sorted(facts.items())}
    return {"steps": len(manifests), "step_seconds": round(seconds), "started": started, **same}


def page(folder: Path) -> str:
    """The page of tables: one section a result, in order of name, and then one a benchmark's figures."""
    return "\n".join([HEAD, *_sections(folder), *_benchmarks(folder)])


def _benchmarks(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("bench/*.json")):
        found = json.loads(file.read_text())
        machine = found["machine"]
        yield f"## {file.stem}\n\n`make bench`: centre (median over rounds, mean over cases), least and most of n."
        yield (
            f"[{file.name}](bench/{file.name}): {machine['cpu']}, {machine['cores']} cores, {machine['threads']} "
            f"thread, torch {machine['torch']}; load at the end {machine['load_at_end'][0]:.1f}.\n"
        )
        rows = [
            (
                f"{figure['what']}, {figure['network']}",
                *(str(figure[name] or "") for name in ("poisons", "micro_batch")),
                *(f"{figure[name]:.3f}" for name in ("centre", "least", "most")),
                str(figure["n"]),
            )
            for figure in found["figures"]
        ]
        yield f"```\n{aligned(('', 'P', 'batch', 'centre', 'least', 'most', 'n'), rows, left=0)}```\n"


def _sections(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        first = next(iter(result["variants"].values()))
        facts, about, counts = result["provenance"], first["experiment"], first["summary"]["poison_success"]
        unclean = "; made from uncommitted changes" if "dirty" in str(facts.get("commit", "dirty")) else ""
        yield f"## {result['name']}\n\n{about['description']}. {counts['cases']} cases × {counts['victims']} victims."
        hardware = facts["hardware"] if isinstance(facts["hardware"], str) else " / ".join(facts["hardware"])
        yield (
            f"[{file.name}]({file.name}): {hardware}; {facts['step_seconds'] / 60:.0f} minutes of steps; "
            f"{facts['started'][:10]}{unclean}.\n"
        )
        rows = {variant or result["name"]: figures for variant, figures in result["variants"].items()}
        yield f"```\n{comparison(rows)}```\n"
        if about["paper"]:
            yield f"The paper: {about['paper']}\n"
