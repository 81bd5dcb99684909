"""The command `brewline report`: runs and sweeps as a page to look at, to print and to pass on."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_store import DEFAULT_STORE, StoreOption, reached
from pipeline.store import Store
from stages.config import InputError, nearest

if TYPE_CHECKING:
    from pipeline.report.page import Report


def report(
    names: Annotated[list[str], typer.Argument(metavar="RUN…|SWEEP", help="`brewline status` lists them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="The folder to make.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder to make with the curves, for TensorBoard.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Make a page of a run, finished or not, of several side by side, or of a sweep: one file that needs no network,
    and its charts as PNG and SVG beside it."""
    from stages.interchange.delivery import check_target

    folders = [folder.expanduser().resolve() for folder in (out, tensorboard) if folder is not None]
    if not folders:
        raise InputError("--out is missing: it names the folder to make; or give --tensorboard, for event files")
    if len(set(folders)) < len(folders):
        raise InputError(f"--out and --tensorboard are both {folders[0]}; name two folders")
    for folder in folders:
        check_target(folder)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{repeated[0]} is named more than once; name each run once")
    opened = reached(store)
    if _sweep(opened, names, out, tensorboard):
        return

    from pipeline.report.collect import collect

    found = [collect(opened, name) for name in names]
    if out is not None:
        from pipeline.report.page import report as made

        page = made(found)
        print(_whole(out, lambda folder: _files(page, folder)))
    if tensorboard is not None:
        from pipeline.report.tensorboard import write

        print(_whole(tensorboard, lambda folder: sum(write(run, folder) for run in found)))
    for run in found:
        if not run.done:
            print(f"{run.run} is not finished: {run.count('done')} of {len(run.steps)} steps are done")


def _sweep(store: Store, names: list[str], out: Path | None, tensorboard: Path | None) -> bool:
    """Whether a sweep is named, and its page made. Raises InputError where something else is named too, or nothing that
    the store has."""
    from pipeline.report.sweep import collect_sweep
    from pipeline.sweep.trials import is_sweep

    there = store.runs()
    for name in names:
        if name not in there:
            hint = nearest(name, there) if there else "it has none"
            raise InputError(f"no run and no sweep {name!r} in {store.url}; {hint}")
    sweeps = [name for name in names if is_sweep(store, name)]
    if not sweeps:
        return False
    name = sweeps[0]
    if len(names) > 1:
        raise InputError(f"{name} is a sweep, and has a page of its own; name it alone, or its trials' runs")
    if tensorboard is not None or out is None:
        raise InputError(f"--tensorboard: {name} is a sweep; name the runs of its trials instead, or leave it out")

    from pipeline.report.sweep_page import sweep_report

    page = sweep_report(collect_sweep(store, name))
    print(_whole(out, lambda folder: _files(page, folder)))
    return True


def _files(page: "Report", folder: Path) -> None:
    for name, data in page.files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _whole(out: Path, fill: Callable[[Path], object]) -> Path:
    """Make a folder whole or not at all; says what to look at."""
    folder = out.expanduser().resolve()
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.unfinished"
    try:
        hidden.mkdir(parents=True)
        fill(hidden)
        hidden.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error}); nothing was left there") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    page = folder / "report.html"
    return page if page.exists() else folder
