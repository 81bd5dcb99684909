"""What a sweep remembers: its log in the store, line by line, and the trials that the lines make."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, ValidationError

from pipeline.store import Store
from pipeline.sweep.measure import Figures
from pipeline.sweep.space import Settings
from pipeline.sweep.spec import Spec
from stages.config import InputError

SPEC, LOG = "sweep.yaml", "trials.jsonl"

State = Literal["running", "done", "stopped", "failed"]
"""stopped: by the scheduler, in favour of better ones.  running, failed: the sweep, started again, tries it again."""
FINISHED = ("done", "stopped")


@dataclass
class Trial:
    """One suggestion and what became of it.

    reports: (cases, what the scheduler compares) at each rung.  run: of a trial that came to its last.  ran: steps that
    it computed itself, of `steps` in all.  gpu_seconds: of those that it computed.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    number: int
    settings: Settings
    state: State = "running"
    reports: list[tuple[int, float]] = field(default_factory=list)
    cases: int = 0
    figures: Figures = field(default_factory=dict)
    run: str | None = None
    seconds: float = 0.0
    steps: int = 0
    ran: int = 0
    gpu_seconds: float = 0.0
    why: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be done."""
        return self.state in FINISHED


def is_sweep(store: Store, name: str) -> bool:
    """Whether a name among the runs is a sweep's."""
    return store.age_run(name, SPEC) is not None


def asked(store: Store, sweep: str) -> tuple[Spec, dict[str, Any]]:
    """What a sweep in the store was asked: its file, and the base experiment. Raises InputError where another version
    of brewline wrote it."""
    try:
        written = yaml.safe_load(store.read_run(sweep, SPEC) or b"")
        return Spec.model_validate(written["sweep"]), written["base"]
    except (ValidationError, yaml.YAMLError, TypeError, KeyError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise InputError(
            f"{store.place(f'runs/{sweep}/{SPEC}')} cannot be read: it was written by another version of brewline, or "
            f"is damaged ({told}); run the sweep again, which computes no step anew"
        ) from None


class Trials:
    """The trials of a sweep by number, from its log and into it."""

    def __init__(self, store: Store, sweep: str) -> None:
        self._store, self._sweep = store, sweep
        self.all: list[Trial] = []
        self.events: list[dict[str, Any]] = list(_lines(store, sweep))
        for event in self.events:
            self._take(event)

    @property
    def gpu_hours(self) -> float:
        """What they computed so far took."""
        return sum(trial.gpu_seconds for trial in self.all) / 3600

    def suggested(self, settings: Settings) -> Trial:
        """A new trial."""
        self._log({"event": "suggested", "number": len(self.all), "settings": settings})
        return self.all[-1]

    def ended(self, trial: Trial, **facts: Any) -> None:
        """What became of a trial, by the names of its fields."""
        self._log({"event": "ended", "number": trial.number, **facts})

    def _log(self, event: dict[str, Any]) -> None:
        # The line before may have been cut short.
        self._store.append_run(self._sweep, LOG, "\n" + json.dumps(event) + "\n")
        self.events.append(event)
        self._take(event)

    def _take(self, event: dict[str, Any]) -> None:
        if event["event"] == "suggested":
            self.all.append(Trial(event["number"], event["settings"]))
            return
        trial = self.all[event["number"]]
        earlier = trial.gpu_seconds, trial.ran, trial.seconds
        trial.gpu_seconds, trial.ran, trial.seconds = 0.0, 0, 0.0
        for name, value in event.items():
            if name not in ("event", "number"):
                setattr(trial, name, value)
        trial.reports = [(int(cases), float(value)) for cases, value in trial.reports]
        trial.gpu_seconds, trial.ran, trial.seconds = (
            before + now for before, now in zip(earlier, (trial.gpu_seconds, trial.ran, trial.seconds), strict=True)
        )


def _lines(store: Store, sweep: str) -> Iterator[dict[str, Any]]:
    for line in (store.read_run(sweep, LOG) or b"").decode().splitlines():
        with suppress(ValueError):  # cut short when a disk was full
            yield json.loads(line)
