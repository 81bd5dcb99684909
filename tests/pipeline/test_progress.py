"""What a run shows: plain lines without a terminal, a line a stage with one, and true counts in both."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.plan import Plan
from pipeline.progress import EVENTS, Reporter
from pipeline.step import Step
from pipeline.store import Manifest, open_store
from pipeline.work import Failure, Progress
from stages.stage import STAGES

Planner = Callable[[dict[str, Any]], Plan]


def manifest_of(step: Step, **metrics: float) -> Manifest:
    facts = {"seconds": 2.0, "host": "here"}
    return Manifest(**step.made_of, key=step.key, write_id="0" * 32, metrics=metrics, provenance=facts)


@pytest.fixture
def plan(plan_tiny: Planner) -> Plan:
    return plan_tiny({"surrogates.count": 2})


def reporter(plan: Plan, folder: Path, cached: set[str], terminal: bool) -> tuple[Reporter, io.StringIO]:
    shown = io.StringIO()
    console, slots = Console(file=shown, force_terminal=terminal, width=120), dict.fromkeys(STAGES, 2.0)
    return Reporter(plan, open_store(folder), cached, slots, console), shown


def test_plain_lines_count_what_is_done_and_what_is_undone_again(plan: Plan, tmp_path: Path) -> None:
    steps = {step.label: step for step in plan.steps.values()}
    one, two = steps["pretrain surrogate 0"], steps["pretrain surrogate 1"]
    report, shown = reporter(plan, tmp_path, {steps["prepare digits"].key}, terminal=False)
    with report:
        report.progressed({one.key: Progress(1, 2, {"loss": 0.5}, "here")})
        report.ended(one, manifest_of(one, validation_accuracy=0.25), ours=True)
        # Its worker died before it was heard of: nothing that was done is undone.
        report.repeated(two, "its worker died")
        report.ended(two, manifest_of(two), ours=True)
        # What ended in this run, and what an earlier one left, may both turn out damaged.
        report.repeated(one, "is damaged: [model] holds other bytes")
        report.repeated(steps["prepare digits"], "is damaged")
        report.ended(steps["prepare digits"], manifest_of(steps["prepare digits"]), ours=True)
        report.failed(one, Failure("no reason", "/log"))
    counts = re.findall(rf"^\[ *(\d+)/{len(plan.steps)}\]", shown.getvalue(), re.MULTILINE)
    assert counts == ["2", "3", "2", "2"]
    assert "[model] holds other bytes; it runs again" in shown.getvalue()
    assert "accuracy 0.25" in shown.getvalue()
    events = [json.loads(line) for line in (tmp_path / "runs" / plan.run / EVENTS).read_text().splitlines()]
    assert [event["event"] for event in events] == [
        *("began", "running", "done", "repeated", "done", "repeated", "repeated", "done", "failed", "ended")
    ]
    assert events[0]["cached"] == 1


def test_a_terminal_shows_one_line_a_stage(plan: Plan, tmp_path: Path) -> None:
    steps = {step.label: step for step in plan.steps.values()}
    one = steps["pretrain surrogate 0"]
    report, shown = reporter(plan, tmp_path, {steps["prepare digits"].key}, terminal=True)
    with report:
        report.progressed({one.key: Progress(1, 2, {"loss": 0.5}, "here")})
        report.ended(one, manifest_of(one, validation_accuracy=0.25), ours=True)
    last = shown.getvalue().rpartition("prepare")[2].splitlines()
    table = ["prepare" + last[0], *last[1:]]
    assert [line.split()[0] for line in table if line.split()[:1] and line.split()[0] in dict(plan.by_stage())] == [
        stage for stage, _ in plan.by_stage()
    ]
    assert any("1/2" in line and "2.0 s a step" in line and "accuracy 0.25" in line for line in table)


def test_many_running_steps_are_written_down_in_turn(
    plan_tiny: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.progress.HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.progress.MOST_STEPS", 2)
    plan = plan_tiny({"surrogates.count": 5})
    reports = {step.key: Progress(1, 2, {}, "here") for step in plan.steps.values() if step.stage == "pretrain"}
    report, _ = reporter(plan, tmp_path, set(), terminal=False)
    with report:
        for _ in range(3):
            report.progressed(reports)
    events = [json.loads(line) for line in (tmp_path / "runs" / plan.run / EVENTS).read_text().splitlines()]
    assert sorted(event["key"] for event in events if event["event"] == "progress") == sorted(reports)


def test_an_interruption_is_written_down(plan: Plan, tmp_path: Path) -> None:
    report, _ = reporter(plan, tmp_path, set(), terminal=False)
    with pytest.raises(KeyboardInterrupt), report:
        raise KeyboardInterrupt
    last = (tmp_path / "runs" / plan.run / EVENTS).read_text().splitlines()[-1]
    assert json.loads(last)["event"] == "interrupted"


def test_time_left_counts_the_machines_that_came(plan_tiny: Planner, tmp_path: Path) -> None:
    plan = plan_tiny({"surrogates.count": 20})
    surrogates = [step for step in plan.steps.values() if step.stage == "pretrain"]
    report, shown = reporter(plan, tmp_path, set(), terminal=True)
    with report:
        report.progressed({step.key: Progress(0, 2, {}, "here") for step in surrogates[:10]})
        report.ended(surrogates[0], manifest_of(surrogates[0]), ours=True)
        report.progressed({surrogates[10].key: Progress(0, 2, {}, "here")})
    last = shown.getvalue().rpartition("pretrain")[2].splitlines()[0]
    assert "4 s left" in last, "19 steps of 2 s, ten at a time, though there was room for two when the run began"
