"""How a run ended, and who is told what happens in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.plan import Plan
from pipeline.step import Step
from pipeline.store import Manifest
from pipeline.work import Failure, Progress


@dataclass
class Outcome:
    """How a run ended: each step's key under what became of it."""

    cached: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)
    blocked: set[str] = field(default_factory=set)

    def counts(self, plan: Plan) -> dict[str, int]:
        """Steps by what became of them."""
        groups = {name: len(getattr(self, name)) for name in ("cached", "ran", "failed", "blocked")}
        return {"total": len(plan.steps), **groups}


class Watcher(Protocol):
    """Is told what happens, to show it and to write it down."""

    def progressed(self, reports: Mapping[str, Progress]) -> None:
        """Running steps' new reports, by key; the first is of 0 done. Called a few times a second."""

    def ended(self, step: Step, manifest: Manifest, ours: bool) -> None:
        """A step is committed. ours: by this run, and not meanwhile by another."""

    def repeated(self, step: Step, why: str) -> None:
        """A step must run (again) that had run, or that had begun."""

    def failed(self, step: Step, failure: Failure) -> None:
        """A step will not be tried again."""

    def paused(self, step: Step) -> None:
        """A step that had begun waits for something, and begins again."""

    def waiting(self, why: str) -> None:
        """What is waited for."""
