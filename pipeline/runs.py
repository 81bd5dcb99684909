"""A run's folder in the store: what was asked, the plan, and, read back, how far it is."""

import json
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pipeline.experiment import Experiment
from pipeline.plan import Plan
from pipeline.progress import EVENTS, HEARTBEAT_SECONDS
from pipeline.step import Ref
from pipeline.store import Manifest, Store, StoreError
from stages.config import InputError, nearest

EXPERIMENT, PLAN, SUMMARY, TABLE = "experiment.yaml", "plan.json", "summary.json", "table.txt"
STATES = ("done", "running", "failed", "blocked", "left")
SILENCE_SECONDS = 8 * HEARTBEAT_SECONDS
"""A run that has written no event for so long, by the store's clock, was killed."""


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
    """What became of a planned step. state: one of STATES; since: when it came to be so, ISO 8601."""

    label: str
    stage: str
    key: str
    state: str
    since: str = ""
    note: str = ""


def states(store: Store, run: str) -> list[StepState]:
    """Each step of a run and how far it is, from the store alone, so from any machine.

    A step counts as running while the run that started it says so every few seconds in the event log, and no longer.
    """
    steps = planned(store, run)
    done = {key for stage in {step["stage"] for step in steps} for key in store.keys(stage)}
    last, alive = _last_events(store, run)
    found: list[StepState] = []
    stuck: set[str] = set()
    for step in steps:
        key, event = step["key"], last.get(step["key"], {})
        state, since, note = "left", event.get("time", ""), ""
        if key in done:
            state = "done"
        elif event.get("event") == "failed":
            state, note = "failed", event["why"]
        elif event.get("event") in ("running", "progress") and event.get("driver") in alive:
            far = f"{event['done']} of {event['total']}, " if "done" in event else ""
            state, note = "running", f"{far}on {event['host']}"
        elif not stuck.isdisjoint(step["inputs"].values()):
            state, since = "blocked", ""
        else:
            since = ""
        if state in ("failed", "blocked"):
            stuck.add(key)
        found.append(StepState(step["label"], step["stage"], key, state, since, note))
    return found


def _last_events(store: Store, run: str) -> tuple[dict[str, dict[str, Any]], set[str | None]]:
    """What the event log says last of each step, by key, and which of the processes that wrote it are at work.

    `running` and its `progress` are one; when a run begins, what failed before is tried again.
    """
    events = []
    for line in (store.read_run(run, EVENTS) or b"").decode().splitlines():
        with suppress(ValueError):  # cut short when a disk was full
            events.append(json.loads(line))
    events.sort(key=lambda event: str(event["time"]))  # several processes write parts of their own
    last: dict[str, dict[str, Any]] = {}
    heard: dict[str | None, datetime] = {}
    for event in events:
        driver = event.get("driver")  # older brewlines did not name the process
        heard[driver] = datetime.fromisoformat(event["time"])
        if event["event"] == "began":
            last = {key: old for key, old in last.items() if old["event"] != "failed"}
        elif event["event"] in ("ended", "interrupted"):
            del heard[driver]
        elif "key" in event:
            last[event["key"]] = {**last.get(event["key"], {}), **event}
            if event["event"] in ("running", "repeated"):
                last[event["key"]] = event
    age = store.age_run(run, EVENTS)
    if age is None or age > SILENCE_SECONDS or not heard:
        return last, set()
    quiet_since = max(heard.values()) - timedelta(seconds=SILENCE_SECONDS)
    return last, {driver for driver, time in heard.items() if time > quiet_since}


def goes_on(store: Store, run: str) -> bool:
    """Whether any process is at work on a run: it wrote to the log a moment ago, and not that it ended."""
    age = store.age_run(run, EVENTS)
    return age is not None and age <= SILENCE_SECONDS and bool(_last_events(store, run)[1])


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
                raise StoreError(
                    f"run {plan.run} is done, but its summary is not in {store.url} as this machine sees it: a folder "
                    "must be the same one on all machines, by a mount; or give a store in S3"
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
