"""The command `brewline sweep`."""

import json
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console

from pipeline.cli_store import DEFAULT_STORE, FAILED, StoreOption
from pipeline.resources import Connect
from pipeline.store import Store, open_store
from pipeline.sweep.tables import front, table
from pipeline.sweep.trials import Trial, Trials, asked


def sweep(
    context: typer.Context,
    spec: Annotated[str, typer.Argument(metavar="FILE_OR_NAME", help="A sweep file, or a named one.")],
    store: StoreOption = DEFAULT_STORE,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster: auto, or host:port.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End standard output with one line of JSON.")] = False,
) -> None:
    """Run many experiments that differ in a few fields. What is finished is not repeated: the same command resumes."""
    from pipeline.sweep.base import Sweep
    from pipeline.sweep.run import run

    made, opened = Sweep.load(spec), open_store(store)
    opened.probe()
    connect: Connect = context.obj
    with connect(address) as machines:
        result = run(made, opened, machines, Console(stderr=True))
    print(table(made.spec, result.trials, result.best), end="")
    named = {"done": "done", "stopped": "stopped", "failed": "failed", "running": "left"}
    counts = {told: sum(trial.state == state for trial in result.trials) for state, told in named.items()}
    print(f"{len(result.trials)} trials: " + ", ".join(f"{count} {state}" for state, count in counts.items()), end="")
    print(f". {result.steps} steps, {result.saved} of them shared with others. Sweep {result.name} in {opened.url}")
    if result.importance:
        shares = ", ".join(f"{path} {share:.2f}" for path, share in result.importance.items())
        print(f"importance for {made.spec.metrics[0].name}: {shares}")
    if result.used_up:
        print(result.used_up)
    _tell_failed(result.trials)
    if result.best:
        print(f"The best experiment, all trials as JSON and CSV: {opened.place(f'runs/{result.name}')}")
    if as_json:
        figures = {"sweep": result.name, "store": opened.url, "trials": counts, "best": list(result.best)}
        print(json.dumps(figures | {"steps": result.steps, "steps_saved": result.saved}))
    if any(trial.state == "failed" for trial in result.trials):
        raise typer.Exit(FAILED)


def show(store: Store, sweep: str) -> None:
    """How far a sweep is: its trials, from the store alone."""
    (spec, _), trials = asked(store, sweep), Trials(store, sweep).all
    print(table(spec, trials, front(spec, trials)), end="")
    for trial in trials:
        if trial.state == "running":
            print(f"not ended: trial {trial.number} {trial.settings}")
    _tell_failed(trials)


def _tell_failed(trials: Iterable[Trial]) -> None:
    for trial in trials:
        if trial.state == "failed":
            print(f"\nfailed: trial {trial.number} {trial.settings}\n  why: {trial.why}")
