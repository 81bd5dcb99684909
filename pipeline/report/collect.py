"""What is known of a run, from the store alone: whatever machine asks, and whether or not the run has ended."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from pipeline import runs
from pipeline.progress import EVENTS
from pipeline.provenance import provenance
from pipeline.store import Manifest, Store
from stages.config import InputError
from stages.data.cases import heading
from stages.gallery import GALLERY, Gallery
from stages.gallery import read as read_gallery
from stages.summarize import RATES, mean_and_error

READERS = 16
"""Files that are read at once: of a store in S3 each is a request."""

Curves = Mapping[str, Sequence[float]]
"""What `retrain` and `pretrain` leave in curves.json: one value an epoch."""
Evaluation = Mapping[str, Any]
"""What `evaluate` leaves."""


@dataclass(frozen=True)
class CaseFound:
    """What is known of one case. What is not done yet is None, or is not there.

    drawn: what stage `case` said of it.  made: what `export` said of the poisons.  restarts: B at each step, by the
    restart's number.  chosen: the restart whose poisons were taken, B: theirs; null for poisons made elsewhere.
    poisoned, clean: the evaluations of its victims by number, of the same seeds.
    """

    number: int
    drawn: Mapping[str, Any] | None
    made: Mapping[str, Any] | None
    restarts: Mapping[int, Sequence[float]]
    chosen: int | None
    B: float | None
    poisoned: Mapping[int, Evaluation]
    clean: Mapping[int, Evaluation]
    gallery: Gallery | None

    @property
    def title(self) -> str:
        """Its number and classes."""
        drawn = self.drawn
        return f"{self.number}: " + (
            heading(drawn["target_class"], drawn["intended_class"]) if drawn else "not drawn yet"
        )

    def row(self) -> dict[str, Any]:
        """The case as stage `summarize` sums it up, of the victims that are evaluated."""
        drawn = self.drawn or {}
        named = {name: drawn.get(name) for name in ("target_class", "poison_class", "intended_class", "target_ids")}
        poisons = self.made["poisons"] if self.made else drawn.get("poisons")
        row: dict[str, Any] = {"case": self.number, **named, "poisons": poisons, "brew_loss": self.B}
        for prefix, found in (("", self.poisoned), ("clean_", self.clean)):
            accuracy = "poisoned_accuracy" if not prefix else "clean_accuracy"
            targets = [target for one in found.values() for target in one["targets"]]
            row[f"{prefix}success"] = _mean(one["success"] for one in found.values())
            row[accuracy] = _mean(one["accuracy"] for one in found.values())
            row[f"{prefix}p_intended"] = _mean(target["p_intended"] for target in targets)
        return row


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


@dataclass(frozen=True)
class VariantFound:
    """What is known of one variant of a run. trained: the curves of its networks by key, and by what they are:
    surrogate, poisoned, clean.  victims: how many a case has, poisoned, and as many clean."""

    name: str
    experiment: Mapping[str, Any]
    victims: int
    cases: tuple[CaseFound, ...]
    trained: Mapping[str, Mapping[str, Curves]]
    done: bool
    told: bool = True
    """Whether its summary, if done, has what a gallery needs: older ones have not."""

    def figures(self) -> dict[str, Any]:
        """{cases, summary} as `summarize` writes them, so far as there are evaluations; a mean is null without any."""
        rows = [case.row() for case in self.cases]
        counts = {"cases": len(rows), "victims": self.victims}
        summary = {}
        for name, of in RATES.items():
            values = [row[of] for row in rows if row[of] is not None]
            known: dict[str, float | None] = mean_and_error(values) if values else {"mean": None, "se": None}
            summary[name] = {**known, **counts, "known": len(values)}
        return {"cases": rows, "summary": summary}


@dataclass(frozen=True)
class StepFound:
    """One step of a run: how far it is (one of `runs.STATES`), when it began and how long it took, where, whether
    another run had it done, what there is to say, and of which variants it is."""

    label: str
    stage: str
    key: str
    state: str
    started: str = ""
    seconds: float | None = None
    host: str = ""
    cached: bool = False
    note: str = ""
    variants: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunFound:
    """What is known of a run."""

    run: str
    url: str
    steps: tuple[StepFound, ...]
    variants: tuple[VariantFound, ...]
    provenance: Mapping[str, Any] | None
    """Null where nothing is done yet."""

    @property
    def done(self) -> bool:
        """Whether nothing of it is left to do. What its summaries were made of may be gone from the store by now."""
        return all(variant.done for variant in self.variants)

    def count(self, state: str) -> int:
        """How many steps are in a state."""
        return sum(step.state == state for step in self.steps)


@dataclass
class _Source:
    """A run's plan, the manifests of what is done, and the files of those, read when asked for."""

    store: Store
    plan: Mapping[str, Mapping[str, Any]]
    manifests: Mapping[str, Manifest]
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def read(self, wanted: Iterable[tuple[str, str]]) -> None:
        """Read files, each given as (key, name), many at once; what is not done, or has no such file, has none."""
        pairs = set(wanted)
        found = [(key, blob) for key, name in pairs if key in self.manifests for blob in self._named(key, name)]
        with ThreadPoolExecutor(READERS) as pool:
            for (key, blob), data in zip(found, pool.map(lambda pair: self._bytes(pair[1]), found), strict=True):
                self.files[key, blob.name] = data

    def _named(self, key: str, name: str) -> Iterable[Any]:
        return (blob for blob in self.manifests[key].blobs if blob.name == name)

    def _bytes(self, blob: Any) -> bytes:
        with self.store.blob_file(blob) as path:
            return path.read_bytes()

    def json(self, key: str, name: str) -> Any:
        """A file that was read, or None."""
        data = self.files.get((key, name))
        return None if data is None else json.loads(data)

    def metrics(self, key: str | None) -> Mapping[str, Any] | None:
        """What a step said when it was done, or None."""
        return self.manifests[key].metrics if key is not None and key in self.manifests else None


def collect(store: Store, run: str) -> RunFound:
    """Everything that a report says of a run. Raises InputError for a run that is not there, StoreError where one of
    its files is damaged."""
    steps = runs.planned(store, run)
    manifests = {manifest.key: manifest for manifest, _ in store.look((step["stage"], step["key"]) for step in steps)}
    source = _Source(store, {step["key"]: step for step in steps}, manifests)
    summaries = [step for step in steps if "variant" in step]
    if not summaries:
        raise InputError(
            f"run {run} is an older brewline's, whose plan does not say what it sums up; run it again, and report that"
        )
    if without := [summary["variant"] for summary in summaries if summary["stage"] == "tally"]:
        raise InputError(
            f"run {run} is of an attack without targets{f' ({without[0]})' if without[0] else ''}, which the report "
            f"does not show; its table and pictures are in {store.place(f'runs/{run}')}"
        )
    for summary in summaries:
        source.read(_wanted(source, summary))
    variants = tuple(
        _variant(source, summary, runs.experiment_of(store, run, summary["variant"])) for summary in summaries
    )
    facts = provenance(manifests.values()) if manifests else None
    reached = _reached(source, summaries)
    found = tuple(
        replace(step, variants=tuple(name for name, keys in reached if step.key in keys))
        for step in _steps(store, run, manifests)
    )
    return RunFound(run, store.url, found, variants, facts)


def _reached(source: _Source, summaries: Sequence[Mapping[str, Any]]) -> list[tuple[str, set[str]]]:
    """Each variant with the keys of all that its summary is made of."""
    reached = []
    for summary in summaries:
        keys, ahead = set(), [summary["key"]]
        while ahead:
            key = ahead.pop()
            if key not in keys:
                keys.add(key)
                ahead += source.plan[key]["inputs"].values()
        reached.append((summary["variant"], keys))
    return reached


def _wanted(source: _Source, summary: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield summary["key"], GALLERY
    if summary["key"] in source.manifests:
        for blob in source.manifests[summary["key"]].blobs:
            if blob.name.startswith("gallery-"):
                yield summary["key"], blob.name
    for role, key in summary["inputs"].items():
        kind = role.partition(".")[0]
        if kind == "brew":
            yield key, "brew.json"
        elif kind in ("poisoned", "clean"):
            yield key, "evaluation.json"
            yield source.plan[key]["inputs"]["victim"], "curves.json"
        if kind in ("brew", "case"):
            yield from ((of, "curves.json") for of in _surrogates(source.plan[key]))


def _surrogates(step: Mapping[str, Any]) -> list[str]:
    return [key for role, key in step["inputs"].items() if role.startswith("surrogate.")]


def _variant(source: _Source, summary: Mapping[str, Any], experiment: Mapping[str, Any]) -> VariantFound:
    inputs, counts, key = summary["inputs"], summary["params"], summary["key"]
    trained: dict[str, dict[str, Curves]] = {"surrogate": {}, "poisoned": {}, "clean": {}}
    for role, of in inputs.items():
        kind = role.partition(".")[0]
        networks = [source.plan[of]["inputs"]["victim"]] if kind in ("poisoned", "clean") else []
        if kind in ("brew", "case"):
            kind, networks = "surrogate", _surrogates(source.plan[of])
        for network in networks:
            curves = source.json(network, "curves.json")
            if curves and curves["loss"]:
                trained[kind][network] = curves
    sheets = {facts["case"]: facts for facts in source.json(key, GALLERY) or ()}
    cases = tuple(_case(source, summary, number, sheets.get(number)) for number in range(counts["cases"]))
    done = key in source.manifests
    return VariantFound(
        summary["variant"], experiment, counts["victims"], cases, trained, done, bool(sheets) or not done
    )


def _case(source: _Source, summary: Mapping[str, Any], number: int, sheet: Mapping[str, Any] | None) -> CaseFound:
    inputs, counts = summary["inputs"], summary["params"]

    def of(role: str, count: int, file: str) -> dict[int, Any]:
        found = {i: source.json(inputs[f"{role}.{number}.{i}"], file) for i in range(count)}
        return {i: one for i, one in found.items() if one is not None}

    # Where restarts are raced, a later leg holds all of what its restart came to.
    brews = of("brew", sum(role.startswith(f"brew.{number}.") for role in inputs), "brew.json")
    overlay = inputs[f"overlay.{number}"]
    selected = source.metrics(source.plan[overlay]["inputs"].get("poisons")) or {}
    return CaseFound(
        number=number,
        drawn=source.metrics(inputs[f"case.{number}"]),
        made=source.metrics(overlay),
        restarts={brew.get("restart", i): brew["losses"] for i, brew in brews.items()},
        chosen=selected.get("chosen"),
        B=selected.get("brew_loss"),
        poisoned=of("poisoned", counts["victims"], "evaluation.json"),
        clean=of("clean", counts["victims"], "evaluation.json"),
        gallery=read_gallery(source.files[summary["key"], sheet["file"]], sheet) if sheet else None,
    )


def _steps(store: Store, run: str, manifests: Mapping[str, Manifest]) -> tuple[StepFound, ...]:
    """Each step; it is cached where it is done and no process of this run says that it did it."""
    ran = set()
    for line in (store.read_run(run, EVENTS) or b"").decode().splitlines():
        with suppress(ValueError):  # cut short when a disk was full
            event = json.loads(line)
            if event["event"] == "done":
                ran.add(event["key"])
    found = []
    for step in runs.states(store, run):
        manifest = manifests.get(step.key)
        if manifest is None:
            found.append(StepFound(step.label, step.stage, step.key, step.state, step.since, note=step.note))
            continue
        facts = manifest.provenance
        cached = step.key not in ran
        found.append(
            StepFound(
                step.label, step.stage, step.key, "done", facts["started"], facts["seconds"], facts["host"], cached
            )
        )
    return tuple(found)
