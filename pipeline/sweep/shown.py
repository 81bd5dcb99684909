"""What a sweep shows while it runs: a live table of its trials, or a line when one begins and ends."""

import math
import time
from typing import Any

from ray import tune
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from pipeline.progress import duration
from pipeline.sweep.spec import Spec
from pipeline.sweep.tables import columns, figure, figures_of, value_of, written
from pipeline.sweep.trials import Trials
from pipeline.work import Progress

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 30.0
SHOWN = 30
"""Most trials in the live table: those that run, and the last that ended."""


class Shown(tune.Callback):
    """Is told by Ray Tune what happens, and reads from the board how far the running trials' steps are."""

    def __init__(self, spec: Spec, trials: Trials, board: Any, of: float, console: Console) -> None:
        """of: how many trials there will be; infinite where that is not known."""
        self._spec, self._trials, self._board, self._of, self._console = spec, trials, board, of, console
        self._far: dict[int, Progress] = {}
        self._began: dict[int, float] = {}
        self._told: set[int] = set()
        self._start = self._polled = self._beat = time.monotonic()
        self._before = sum(trial.finished for trial in trials.all)
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=2)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune keeps what it would restore a sweep from, and the log does that."""
        return {}

    def __enter__(self) -> "Shown":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        if self._console.is_terminal:
            self._live.stop()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray Tune's word."""
        number = trial.config["number"]
        self._began[number] = time.monotonic()
        self._line(f"trial {number} begins: {written(self._trials.all[number].settings)}")

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ray Tune's word, many times a second."""
        if time.monotonic() - self._polled > POLL_SECONDS:
            self._polled = time.monotonic()
            self._look()

    def _look(self) -> None:
        import ray

        self._far |= {int(number): far for number, far in ray.get(self._board.read.remote()).items()}
        for trial in self._trials.all:
            if trial.number not in self._told and trial.state != "running" and trial.number in self._began:
                self._told.add(trial.number)
                self._line(f"trial {trial.number} {trial.state}: {figures_of(self._spec, trial)}")
                if trial.why:
                    self._line(f"  {trial.why}")
        if time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self._beat = time.monotonic()
            self._line(self._head())

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _head(self) -> str:
        ended = sum(trial.finished for trial in self._trials.all)
        running = [
            trial.number for trial in self._trials.all if trial.number in self._began and trial.state == "running"
        ]
        far = [self._far[number] for number in running if number in self._far]
        steps = f" ({', '.join(f'{one.done}/{one.total}' for one in far)} steps)" if far else ""
        here, seconds = ended - self._before + sum(one.done / one.total for one in far), time.monotonic() - self._start
        left = self._of - self._before - here
        told = "" if math.isinf(left) or here < 1 else f", {duration(left * seconds / here)} left"
        of = "" if math.isinf(self._of) else f" of {self._of}"
        return f"{ended}{of} trials ended, {len(running)} running{steps}, {duration(seconds)}{told}"

    def _table(self) -> Group:
        table = Table("trial", *self._spec.space, "state", "steps", box=None, header_style="bold")
        for name in columns(self._spec):
            table.add_column(name.replace("_", " "), justify="right")
        table.add_column("time", justify="right")
        order = sorted(self._trials.all, key=lambda trial: (trial.state == "running", trial.number))
        for trial in order[-SHOWN:]:
            far = self._far.get(trial.number)
            steps = f"{far.done}/{far.total}" if far and trial.state == "running" else str(trial.steps or "")
            began = self._began.get(trial.number)
            running = trial.state == "running" and began is not None
            seconds = time.monotonic() - began if running and began is not None else trial.seconds
            table.add_row(
                str(trial.number),
                *(value_of(trial.settings.get(path, "")) for path in self._spec.space),
                trial.state if running or trial.state != "running" else "left",
                steps,
                *(figure(trial, name) for name in columns(self._spec)),
                duration(seconds) if seconds else "",
            )
        return Group(table, self._head())
