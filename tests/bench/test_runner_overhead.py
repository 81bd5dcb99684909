"""What the pipeline itself costs: overhead a step, the driver's memory, a run of which all is done, a large plan.

The steps are real and short: each draws one case of digits, some 10 ms of work. Each part runs in a process of its own,
as the command does.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Figures
    from s3_server import S3Server

pytestmark = pytest.mark.bench

STEPS, PLANNED = int(os.environ.get("BREWLINE_BENCH_STEPS", "10000")), 100_000
PLAN_SETTINGS = ("cases={kind: random, count: 4350}", "victims.count=4", "attack.restarts=8")
"""Of the quickstart: with these it has 100,062 steps."""

RUN = """
import io, json, resource, sys, time
from rich.console import Console
from cluster.connect import connected
from pipeline.experiment import Runtimes, prepare_experiments
from pipeline.experiment_file import load_experiments
from pipeline.needs import cached_steps
from pipeline.plan import Plan, plan
from pipeline.progress import Reporter
from pipeline.resources import at_once
from pipeline.runner import Runner
from pipeline.store import open_store

count, store = int(sys.argv[1]), open_store(sys.argv[2])
store.probe()
made = plan(prepare_experiments(load_experiments("quickstart", ["cases={kind: random, count: 1}"])))
base = next(step for step in made.steps.values() if step.stage == "prepare")
drawn = next(step for step in made.steps.values() if step.stage == "case")
many = Plan("many", {base.key: base})
for seed in range(count):
    cases = drawn.params.cases.model_copy(update={"seed": 1000 + seed})
    many.summaries[str(seed)] = many.add("case", drawn.params.model_copy(update={"cases": cases}), "case", drawn.inputs)
began = time.perf_counter()
cached = cached_steps(many, store)
looked = time.perf_counter() - began
found = {"looked": looked, "cached": len(cached)}
if len(cached) < len(many.steps):
    runtimes = Runtimes(device="cpu")
    with connected(None) as machines:
        slots = at_once(runtimes, "case", machines)
        with Reporter(many, store, cached, {"case": slots, "prepare": slots}, Console(file=io.StringIO())) as reporter:
            began = time.perf_counter()
            outcome = Runner(many, store, runtimes, machines, reporter).run(cached)
            found["seconds"] = time.perf_counter() - began
    assert len(outcome.ran) == len(many.steps)
    work = sum(manifest.provenance["seconds"] for manifest in store.manifests())
    found |= {"slots": slots, "work": work, "driver_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
print(json.dumps(found))
"""


def run(url: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-c", RUN, str(steps), url]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=2500)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_overhead_of_a_step(tmp_path: Path, figures: "Figures") -> None:
    url, on = str(tmp_path / "store"), "folder"
    first, second = run(url, STEPS), run(url, STEPS)
    assert second["cached"] == STEPS + 1
    overhead = (first["seconds"] - first["work"] / first["slots"]) / STEPS * 1e3
    figures.ratio(f"{STEPS} steps, work of one, ms", on, None, None, [first["work"] / STEPS * 1e3])
    figures.check(
        figures.ratio(f"{STEPS} steps, overhead of one, ms", on, None, None, [overhead], at_most=15),
        figures.ratio(f"{STEPS} steps, memory of the driver, MB", on, None, None, [first["driver_mb"]], at_most=1000),
        figures.ratio(f"{STEPS} steps, all done, seconds to see it", on, None, None, [second["looked"]], at_most=10),
    )


def test_the_overhead_of_a_step_in_s3(
    s3_server: "S3Server", s3_environment: dict[str, str], figures: "Figures"
) -> None:
    url, steps = s3_server.url(), STEPS // 10
    first, second = run(url, steps), run(url, steps)
    assert second["cached"] == steps + 1
    overhead = (first["seconds"] - first["work"] / first["slots"]) / steps * 1e3
    figures.ratio(f"{steps} steps, overhead of one, ms", "SeaweedFS", None, None, [overhead])
    figures.ratio(f"{steps} steps, all done, seconds to see it", "SeaweedFS", None, None, [second["looked"]])


def test_a_large_plan(tmp_path: Path, figures: "Figures") -> None:

    command: list[Path | str] = [Path(sys.executable).with_name("brewline"), "plan", "quickstart"]
    command += ["--store", tmp_path / "store"]
    for setting in PLAN_SETTINGS:
        command += ["--set", setting]
    began = time.perf_counter()
    shown = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout
    seconds = time.perf_counter() - began
    count = int(shown.splitlines()[-1].split()[0])
    assert count > PLANNED
    figures.check(figures.ratio(f"plan of {count} steps, seconds", "folder", None, None, [seconds], at_most=10))
