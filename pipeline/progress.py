"""What a run shows while it runs, and what it writes down: a live table or plain lines, and the event log."""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from pipeline.plan import Plan
from pipeline.step import Step
from pipeline.store import Manifest, Store, StoreError
from pipeline.work import Failure, Progress

EVENTS = "events.jsonl"
HEARTBEAT_SECONDS, MOST_STEPS = 15.0, 300
"""How often the event log, and a run without a terminal, say how far the running steps are. Where thousands run the log
has so many of them each time, in turn."""
FLUSH_SECONDS = 2.0
"""How often events go to the store: a store in S3 takes a write each time."""


@dataclass
class _Row:
    """One stage's figures."""

    total: int
    done: set[str]
    failed: int = 0
    seconds: list[float] = field(default_factory=list)
    running: dict[str, tuple[float, Progress]] = field(default_factory=dict)
    figures: str = ""

    @property
    def fraction_running(self) -> float:
        return sum(report.done / max(report.total, 1) for _, report in self.running.values())

    def seconds_a_step(self) -> float | None:
        """From ended steps, or else from how far the running ones are; None where nothing is known."""
        if self.seconds:
            return sum(self.seconds) / len(self.seconds)
        now = time.monotonic()
        known = [
            (now - began) * report.total / report.done for began, report in self.running.values() if report.done > 0
        ]
        return sum(known) / len(known) if known else None


class Reporter:
    """Shows a run on a console, one line a stage, and appends its events to the run's log in the store."""

    def __init__(
        self, plan: Plan, store: Store, cached: set[str], slots: Mapping[str, float], console: Console
    ) -> None:
        self._plan, self._store, self._console, self._slots = plan, store, console, slots
        self._rows = {
            stage: _Row(len(steps), {step.key for step in steps} & cached) for stage, steps in plan.by_stage()
        }
        self._settled: set[str] = set()
        self._beat = self._flushed = time.monotonic()
        self._beats = 0
        self._driver = uuid4().hex[:8]
        self._unwritten: list[str] = []
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> "Reporter":
        self._log("run", "began", cached=self._done(), total=len(self._plan.steps), host=socket.gethostname())
        self._flush()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        self._log("run", "ended" if kind is None else "interrupted")
        self._flush()

    def progressed(self, reports: Mapping[str, Progress]) -> None:
        """Take in the running steps' reports."""
        now = time.monotonic()
        for key, report in reports.items():
            step = self._plan.steps[key]
            row = self._rows[step.stage]
            if key in self._settled:  # a report that was on its way when the step ended
                continue
            if key not in row.running:
                self._log_step(step, "running", host=report.host)
            began, _ = row.running.get(key, (now, report))
            row.running[key] = (began, report)
            row.figures = _figures(report.figures) or row.figures
        if now - self._beat > HEARTBEAT_SECONDS:
            self._beat = now
            self._heartbeat()
        if now - self._flushed > FLUSH_SECONDS:
            self._flush()

    def ended(self, step: Step, manifest: Manifest, ours: bool) -> None:
        """A step is committed. ours: by this run, and not meanwhile by another."""
        self._settled.add(step.key)
        row = self._rows[step.stage]
        row.running.pop(step.key, None)
        row.done.add(step.key)
        row.seconds.append(manifest.provenance["seconds"])
        row.figures = _figures(manifest.metrics) or row.figures
        seconds, host = manifest.provenance["seconds"], manifest.provenance["host"]
        self._log_step(step, "done" if ours else "found", seconds=seconds, host=host)
        self._line(step, f"{seconds:8.1f} s  {_figures(manifest.metrics)}")

    def repeated(self, step: Step, why: str) -> None:
        """A step must run again."""
        self._settled.discard(step.key)
        row = self._rows[step.stage]
        row.running.pop(step.key, None)
        row.done.discard(step.key)
        self._log_step(step, "repeated", why=why)
        self._console.print(
            f"{step.label}: {why}; it runs again", style="yellow", highlight=False, markup=False, soft_wrap=True
        )

    def failed(self, step: Step, failure: Failure) -> None:
        """A step failed for good."""
        self._settled.add(step.key)
        row = self._rows[step.stage]
        row.running.pop(step.key, None)
        row.failed += 1
        self._log_step(step, "failed", why=failure.why, log=failure.log)
        self._line(step, "FAILED")

    def paused(self, step: Step) -> None:
        """A step begins again later."""
        if self._rows[step.stage].running.pop(step.key, None) is not None:
            self._log_step(step, "paused")

    def waiting(self, why: str) -> None:
        """What is waited for."""
        self._log("run", "waiting", why=why)
        self._console.print(f"waiting: {why}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _line(self, step: Step, text: str) -> None:
        if not self._console.is_terminal:
            count = f"[{self._done():>{len(str(len(self._plan.steps)))}}/{len(self._plan.steps)}]"
            self._console.print(f"{count} {step.label:<34} {text}", highlight=False, markup=False, soft_wrap=True)

    def _done(self) -> int:
        return sum(len(row.done) for row in self._rows.values())

    def _heartbeat(self) -> None:
        self._beats += 1
        reports = [(key, report) for row in self._rows.values() for key, (_, report) in row.running.items()]
        turns = -(-len(reports) // MOST_STEPS) or 1
        for key, report in reports[self._beats % turns :: turns]:
            step = self._plan.steps[key]
            self._log_step(step, "progress", done=report.done, total=report.total, figures=report.figures)
        for stage, row in self._rows.items():
            if row.running and not self._console.is_terminal:
                left = duration(self._left(stage))
                text = f"      {stage}: {len(row.done)} of {row.total}, {len(row.running)} running, {left} left"
                self._console.print(f"{text}  {row.figures}", highlight=False, markup=False, soft_wrap=True)

    def _left(self, stage: str) -> float | None:
        """Seconds until the stage is done, if it had the whole cluster, which may have grown."""
        row = self._rows[stage]
        each = row.seconds_a_step()
        todo = row.total - len(row.done) - row.failed - row.fraction_running
        return None if each is None else todo * each / min(max(self._slots[stage], len(row.running)), max(todo, 1))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "right", "right", "right", "left"):
            table.add_column(justify=justify, no_wrap=True)
        for stage, row in self._rows.items():
            done = len(row.done)
            bar = ProgressBar(total=row.total, completed=done + row.fraction_running, width=24)
            each = row.seconds_a_step()
            rate = f"{each:.1f} s a step" if each is not None else ""
            left = f"{duration(self._left(stage))} left" if done < row.total and each is not None else ""
            failed = f" [red]{row.failed} failed[/]" if row.failed else ""
            table.add_row(stage, bar, f"{done}/{row.total}{failed}", rate, left, row.figures)
        return table

    def _log_step(self, step: Step, event: str, **facts: Any) -> None:
        self._log(step.label, event, key=step.key, **facts)

    def _log(self, what: str, event: str, **facts: Any) -> None:
        time_now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": time_now, "driver": self._driver, "what": what, "event": event, **facts}
        self._unwritten.append(json.dumps(line))

    def _flush(self) -> None:
        """Bring the events since the last time into the store."""
        self._flushed = time.monotonic()
        if not self._unwritten:
            return
        try:
            self._store.append_run(self._plan.run, EVENTS, "\n".join(self._unwritten) + "\n")
        except StoreError as error:  # the run goes on: what counts are the steps' own commits
            self._console.print(f"event log: {error}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        else:
            self._unwritten.clear()


def _figures(figures: Mapping[str, Any]) -> str:
    """The figures worth a glance, on one line."""
    shown = {"brew_loss": "B", "B": "B", "validation_accuracy": "accuracy", "accuracy": "accuracy", "loss": "loss"}
    shown |= {"train_accuracy": "train accuracy", "success": "success", "seconds": "s", "images": "images"}
    numbers = {shown[name]: value for name, value in figures.items() if name in shown and _number(value)}
    return "  ".join(f"{name} {value if isinstance(value, int) else f'{value:.3g}'}" for name, value in numbers.items())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def duration(seconds: float | None) -> str:
    """Seconds for people; `?` where they are not known."""
    if seconds is None:
        return "?"
    minutes, whole = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole:02d} s" if minutes else f"{whole} s"
