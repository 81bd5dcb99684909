"""The command `brewline`."""

import gc
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from pipeline import cli_export, cli_report, cli_store, cli_sweep, runs
from pipeline.cli_store import DEFAULT_STORE, FAILED, StoreOption, reached, with_s3_options
from pipeline.cost.estimate import estimate
from pipeline.cost.prices import load_prices
from pipeline.execute import run_stage
from pipeline.experiment import Experiment, prepare_experiments
from pipeline.experiment_file import load_experiments, named_experiments
from pipeline.needs import cached_steps, needed_steps
from pipeline.outcome import Outcome
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.preflight import check_machines
from pipeline.progress import Reporter
from pipeline.report.comparison import comparison
from pipeline.resources import Connect, at_once
from pipeline.runner import Runner
from pipeline.sizes import gigabytes, sizes
from pipeline.step import SHOWN, Ref, Step, difference
from pipeline.store import Store, StoreError, open_store
from pipeline.sweep.trials import is_sweep
from pipeline.user_yaml import read_yaml
from stages.config import InputError, nearest
from stages.data.datasets import absent_folder
from stages.stage import STAGES, Checkpoint, Runtime, load_stage
from stages.summarize import aligned

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(cli_store.cache, name="cache")
app.add_typer(cli_store.results, name="results")
app.command()(with_s3_options(cli_export.export))
app.command()(with_s3_options(cli_report.report))
app.command()(with_s3_options(cli_sweep.sweep))

ExperimentArgument = Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="An experiment file, or a named one.")]
Settings = Annotated[list[str], typer.Option("--set", metavar="FIELD=VALUE", help="Set a field: attack.eps=8.")]


def main(connect: Connect) -> None:
    """Run the command line. Exit codes: 0 done, 1 a step failed, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    gc.set_threshold(200_000, 20, 20)  # a large plan is millions of objects, none of them garbage
    try:
        app(obj=connect)
    except (InputError, StoreError) as error:
        print(f"brewline: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except SystemExit as end:  # typer ends so, also when it is interrupted
        if end.code == INTERRUPTED:
            print("brewline: interrupted; the same command goes on from here", file=sys.stderr)
        raise


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


@app.command()
@with_s3_options
def run(
    context: typer.Context,
    experiment: ExperimentArgument,
    settings: Settings = [],  # noqa: B006
    store: StoreOption = DEFAULT_STORE,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster: auto, or host:port.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End standard output with one line of JSON.")] = False,
) -> None:
    """Run an experiment. What the store has is not run again, so the same command resumes."""
    began = time.monotonic()
    asked, plan, opened = _planned(experiment, settings, store)
    damaged = runs.damaged_summaries(opened, plan)
    cached = cached_steps(plan, opened) - damaged
    runs.record(opened, plan, asked)
    outcome = Outcome(cached=cached)
    if needed_steps(plan, cached):
        connect: Connect = context.obj
        console = Console(stderr=True)
        with connect(address) as machines:
            check_machines(opened, plan.run)
            runtime = next(iter(asked.values())).runtime
            slots = {stage: at_once(runtime.of(stage), stage, machines) for stage in STAGES}
            with Reporter(plan, opened, cached, slots, console) as reporter:
                outcome = Runner(plan, opened, runtime, machines, reporter).run(cached, damaged)
    _conclude(plan, opened, outcome, time.monotonic() - began, as_json)


def _conclude(plan: Plan, store: Store, outcome: Outcome, seconds: float, as_json: bool) -> None:
    """Print how a run ended, and leave with its exit code."""
    results = runs.publish(store, plan, outcome.cached | outcome.ran)
    for variant, result in results.items():
        print(f"{variant}\n{result.table}" if variant else result.table)
    if len(results) > 1:
        print(comparison({variant: result.figures for variant, result in results.items()}))
    counts = outcome.counts(plan)
    print(f"{counts['total']} steps: " + ", ".join(f"{counts[name]} {name}" for name in list(counts)[1:]), end="")
    print(f", {seconds:.1f} s. Run {plan.run} in {store.url}")
    if results:
        print(f"Pictures and summary: {store.place(f'runs/{plan.run}')}")
    for key, failure in outcome.failed.items():
        print(f"\nfailed: {plan.steps[key].label} ({key[:SHOWN]})\n  why: {failure.why}\n  log: {failure.log}")
    if outcome.failed:
        print(f"\n{len(outcome.blocked)} steps are blocked. To resume: {_command()}")
    if as_json:
        head = {"run": plan.run, "store": store.url, "steps": counts, "seconds": round(seconds, 3)}
        print(json.dumps(head | _figures(results)))
    if outcome.failed:
        raise typer.Exit(BAD_INPUT if all(failure.bad_input for failure in outcome.failed.values()) else FAILED)


def _figures(results: Mapping[str, runs.Result]) -> dict[str, Any]:
    """The figures of a run; by variant where its experiment names any."""
    if "" in results:
        return results[""].figures
    if not results:
        return {"cases": [], "summary": None}
    return {"variants": {variant: result.figures for variant, result in results.items()}}


def _command() -> str:
    program = Path(sys.argv[0])
    return shlex.join([program.name if shutil.which(program.name) else str(program), *sys.argv[1:]])


def _planned(
    name: str, settings: list[str], store: str, absent_ok: bool = False
) -> tuple[dict[str, Experiment], Plan, Store]:
    loaded = load_experiments(name, settings)
    asked = prepare_experiments(loaded, absent_ok)
    opened = open_store(store)
    opened.probe()
    return asked, plan_of(asked), opened


@app.command()
@with_s3_options
def plan(
    experiment: ExperimentArgument,
    settings: Settings = [],  # noqa: B006
    store: StoreOption = DEFAULT_STORE,
    cost: Annotated[Path | None, typer.Option(metavar="PRICES", help="What the rest costs on a file's nodes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End standard output with one line of JSON.")] = False,
) -> None:
    """Show an experiment's steps, their keys, which are in the store, how much each stage writes, and what it costs."""
    prices = None if cost is None else load_prices(cost)
    asked, made, opened = _planned(experiment, settings, store, absent_ok=True)
    cached = cached_steps(made, opened)
    written = sizes(made, asked)
    for step in made.steps.values():
        print(f"{step.key[:SHOWN]}  {'cached' if step.key in cached else '-':<6}  {step.label}")
    rows = [
        (stage, str(len(steps)), str(sum(step.key in cached for step in steps)), gigabytes(steps, written))
        for stage, steps in made.by_stage()
    ]
    everything = list(made.steps.values())
    foot = ("all", str(len(everything)), str(len(cached)), gigabytes(everything, written))
    print("\n" + aligned(("stage", "steps", "cached", "GB"), rows, foot))
    for folder in {absent_folder(variant.dataset) for variant in asked.values()} - {None}:
        print(f"{folder}: the data are not there; where they are, keys differ, as their fingerprint is part of them")
    needed = needed_steps(made, cached)
    estimated = None if prices is None else estimate(made, asked, prices, opened, needed, written)
    if estimated:
        print("\n" + estimated.table())
    print(f"{len(made.steps)} steps, {len(needed)} to run. Run {made.run} in {opened.url}")
    if as_json:
        counts = {"total": len(made.steps), "cached": len(cached), "to_run": len(needed)}
        head = {"run": made.run, "store": opened.url, "steps": counts, "bytes": sum(written.values())}
        print(json.dumps(head | {"cost": estimated and estimated.figures()}))


@app.command()
@with_s3_options
def status(
    run: Annotated[str | None, typer.Argument(help="A run; left out, all runs are listed.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show how far a run is: what is done, running, failed and left."""
    opened = reached(store)
    if run is None:
        for name in opened.runs():
            print(name)
        return
    if is_sweep(opened, run):
        cli_sweep.show(opened, run)
        return
    found = runs.states(opened, run)
    for state in ("running", "failed"):
        for step in (step for step in found if step.state == state):
            print(f"{state:<8} {step.label:<34} {step.key[:SHOWN]}  since {step.since}  {step.note}")
    table = Table("stage", *runs.STATES, box=None)
    for stage in STAGES:
        here = [step.state for step in found if step.stage == stage]
        if here:
            table.add_row(stage, *[str(here.count(name)) for name in runs.STATES])
    Console().print(table)


@app.command()
@with_s3_options
def why(
    key: Annotated[str, typer.Argument(help="A key, or its first characters (4 at least).")],
    other: Annotated[str | None, typer.Argument(help="Another key, to compare with.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show what a key is made of, or field by field how two keys differ."""
    opened = reached(store)
    ref, first = runs.made_of(opened, key)
    if other is None:
        print(f"# {ref.stage} {ref.key}")
        print(yaml.safe_dump(first, sort_keys=False), end="")
        return
    second_ref, second = runs.made_of(opened, other)
    print(f"# {ref.stage} {ref.key[:SHOWN]} -> {second_ref.stage} {second_ref.key[:SHOWN]}")
    for path, one, two in difference(first, second):
        print(f"{path}: {json.dumps(one)} -> {json.dumps(two)}")
    if ref == second_ref:
        print("the keys are the same")


@app.command()
def experiments() -> None:
    """List the experiments that ship with brewline."""
    for name in named_experiments():
        variants = load_experiments(name)
        rows = f" ({len(variants)} variants)" if len(variants) > 1 else ""
        print(f"{name:<26} {next(iter(variants.values())).description}{rows}")


@app.command()
def step(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join(STAGES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    params: Annotated[Path | None, typer.Option(help="A YAML file with the stage's params.")] = None,
    inputs: Annotated[list[str], typer.Option("--input", metavar="ROLE=FOLDER", help="An input folder.")] = [],  # noqa: B006
    runtime: Annotated[list[str], typer.Option("--runtime", metavar="FIELD=VALUE", help="cpus=2, device=cuda.")] = [],  # noqa: B006
) -> None:
    """Run one stage on folders, without Ray and without a store."""
    if stage not in STAGES:
        raise InputError(f"no stage {stage!r}; {nearest(stage, STAGES)}")
    folders = {role: Path(folder) for role, folder in (_pair(text, "--input") for text in inputs)}
    for role, folder in folders.items():
        if not folder.is_dir():
            raise InputError(f"--input {role}={folder}: there is no such folder")
    try:
        machine = Runtime(**{name: yaml.safe_load(value) for name, value in (_pair(t, "--runtime") for t in runtime)})
        parsed = load_stage(stage).Params.model_validate({} if params is None else read_yaml(params))
    except ValidationError as error:
        raise InputError(f"step {stage}: {error}") from None
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)

    def report(done: int, total: int, figures: Mapping[str, float]) -> None:
        console.print(f"{done}/{total}", *[f"{name} {value:.4g}" for name, value in figures.items()], highlight=False)

    # A checkpoint is of these params and inputs alone: with others the stage starts anew.
    sources = {role: Ref("", str(folder.resolve())) for role, folder in folders.items()}
    checkpoint = out / f".checkpoint-{Step(stage, parsed, sources).key[:SHOWN]}"
    metrics = run_stage(stage, parsed, Inputs(folders), out, machine, Checkpoint(checkpoint), report)
    shutil.rmtree(checkpoint, ignore_errors=True)
    print(json.dumps(metrics))


class Inputs(dict[str, Path]):
    """Input folders by role; asking for one that was not given is bad input."""

    def __missing__(self, role: str) -> Path:
        """Raises InputError."""
        raise InputError(f"the stage needs --input {role}=FOLDER; {'given: ' + ', '.join(self) if self else 'none'}")


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{option} {text}: expected NAME=VALUE")
    return name, value
