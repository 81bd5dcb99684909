"""A run's folder in the store: what was asked, the plan, and, read back, how far it is."""

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipeline.experiment import Experiment
from pipeline.plan import Plan
from pipeline.progress import EVENTS, HEARTBEAT_SECONDS
from pipeline.step import Ref
from pipeline.store import Manifest, Store
from stages.config import InputError, nearest

EXPERIMENT, PLAN, SUMMARY, TABLE = "experiment.yaml", "plan.json", "summary.json", "table.txt"
STATES = ("done", "running", "failed", "left")
SILENCE_SECONDS = 8 * HEARTBEAT_SECONDS
"""A run whose event log is silent for so long was killed."""


def record(store: Store, plan: Plan, experiments: Mapping[str, Experiment]) -> None:
    """Write down what is run, before it runs."""
    for variant, experiment in experiments.items():
        asked = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        store.write_run(plan.run, _file(variant, EXPERIMENT), asked.encode())
    variants = {ref.key: variant for variant, ref in plan.summaries.items()}
    steps: list[dict[str, Any]] = [
        {"key": step.key, "label": step.label, **step.made_of} for step in plan.steps.values()
    ]
    for step in steps:
        if step["key"] in variants:
            step["variant"] = variants[step["key"]]
    store.write_run(plan.run, PLAN, json.dumps(steps).encode())


def _file(variant: str, name: str) -> str:
    return f"{variant}.{name}" if variant else name


def planned(store: Store, run: str) -> list[dict[str, Any]]:
    """The steps of a run as they were planned. Raises InputError for a run that is not there."""
    data = store.read_run(run, PLAN) if run in store.runs() else None
    if data is None:
        raise InputError(
            f"no run {run!r} in {store.url}; {nearest(run, store.runs()) if store.runs() else 'it has none'}"
        )
    steps: list[dict[str, Any]] = json.loads(data)
    return steps


@dataclass(frozen=True)
class StepState:
    """What became of a planned step. state: done, running, failed or left; since: its last event, ISO 8601."""

    label: str
    stage: str
    key: str
    state: str
    since: str = ""
    note: str = ""


def states(store: Store, run: str) -> Iterator[StepState]:
    """Each step of a run and how far it is, from the store alone.

    A step counts as running while its run says so every few seconds in the event log, and no longer.
    """
    last: dict[str, dict[str, Any]] = {}
    alive, newest = False, ""
    for line in (store.read_run(run, EVENTS) or b"").decode().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # cut short when a disk was full
            continue
        newest = event["time"]
        if event["what"] == "run":
            alive = event["event"] == "began"
            if alive:
                last = {key: old for key, old in last.items() if old["event"] == "done"}
        elif "key" in event:
            last[event["key"]] = {**last.get(event["key"], {}), **event}
    quiet_since = datetime.now(UTC) - timedelta(seconds=SILENCE_SECONDS)
    alive = alive and datetime.fromisoformat(newest) > quiet_since
    for step in planned(store, run):
        event = last.get(step["key"], {})
        since = event.get("time", "")
        if store.read(step["stage"], step["key"]) is not None:
            yield StepState(step["label"], step["stage"], step["key"], "done", since)
        elif event.get("event") == "failed":
            yield StepState(step["label"], step["stage"], step["key"], "failed", since, event["why"])
        elif alive and event.get("event") in ("running", "progress"):
            done = f"{event['done']} of {event['total']}, " if "done" in event else ""
            yield StepState(step["label"], step["stage"], step["key"], "running", since, f"{done}on {event['host']}")
        else:
            yield StepState(step["label"], step["stage"], step["key"], "left")


def made_of(store: Store, prefix: str) -> tuple[Ref, dict[str, Any]]:
    """What the key that begins with `prefix` was computed from: a committed step's, or one of a run's plan.

    Raises InputError where no key, or more than one, begins so.
    """
    found: dict[Ref, dict[str, Any]] = {}
    for ref in (Ref(*pair) for pair in store.find(prefix)):
        manifest = store.read(*ref)
        if manifest is not None:
            found[ref] = _made_of(manifest)
    for run in store.runs():
        for step in json.loads(store.read_run(run, PLAN) or b"[]"):
            if step["key"].startswith(prefix):
                found[Ref(step["stage"], step["key"])] = {name: step[name] for name in MADE_OF}
    if not found:
        raise InputError(f"no key in {store.url} begins with {prefix!r}; `brewline cache ls` lists them")
    if len(found) > 1:
        names = ", ".join(f"{ref.stage} {ref.key[:16]}" for ref in found)
        raise InputError(f"{len(found)} keys begin with {prefix!r}: {names}; give more characters")
    return next(iter(found.items()))


MADE_OF = ("stage", "version", "params", "inputs")


def _made_of(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in MADE_OF}


@dataclass(frozen=True)
class Result:
    """What one variant of a run found. figures: {cases, summary}; table: the same for people."""

    figures: dict[str, Any]
    table: str


def damaged_summaries(store: Store, plan: Plan) -> set[str]:
    """The keys of those summaries whose files are not what was committed; nobody but `publish` reads them."""
    manifests = (store.read(*ref) for ref in plan.summaries.values())
    return {manifest.key for manifest in manifests if manifest is not None and store.verify(manifest)}


def publish(store: Store, plan: Plan, done: Collection[str]) -> dict[str, Result]:
    """Copy the summaries' files (figures, tables, pictures) into the run's folder; gives the result of each variant
    whose summary's key is in `done`."""
    results = {}
    for variant, ref in plan.summaries.items():
        if ref.key not in done:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if not fetch(store, ref, folder):
                raise RuntimeError(
                    f"run {plan.run} ended without {ref}; nothing failed, so this is a fault of brewline"
                )
            for file in folder.iterdir():
                store.write_run(plan.run, _file(variant, file.name), file.read_bytes())
            results[variant] = Result(json.loads((folder / SUMMARY).read_text()), (folder / TABLE).read_text())
    return results


def fetch(store: Store, ref: Ref, folder: Path) -> bool:
    """Lay out a committed step's output under `folder`; false where the step is not in the store."""
    manifest = store.read(*ref)
    if manifest is not None:
        store.fetch(manifest, folder)
    return manifest is not None


def experiment_of(store: Store, run: str, variant: str) -> dict[str, Any]:
    """The experiment as it was run, with every default."""
    asked: dict[str, Any] = yaml.safe_load(store.read_run(run, _file(variant, EXPERIMENT)) or b"")
    return asked
