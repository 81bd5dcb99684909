"""The commands about what is in a store: `brewline cache …` and `brewline results …`."""

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from pipeline import results as kept
from pipeline.runs import goes_on, planned
from pipeline.step import SHOWN
from pipeline.store import Store, open_store
from pipeline.store.collect import collect
from pipeline.store.copying import compare, copy_run, transfer
from pipeline.store.names import GRACE_SECONDS
from pipeline.store.s3_address import OPTIONS, parse, without_user
from stages.config import InputError

DONE, FAILED = 0, 1

StoreOption = Annotated[
    str, typer.Option("--store", envvar="BREWLINE_STORE", help="Where outputs live: a folder, or s3://bucket/prefix.")
]
DEFAULT_STORE = str(Path(platformdirs.user_cache_dir("brewline")) / "store")
FolderOption = Annotated[Path, typer.Option(help="The folder of results.")]

S3_HELP = {
    "endpoint": "Where an S3 other than AWS answers: https://host or http://host:port.",
    "region": "The bucket's region.",
    "storage_class": "The class that blobs are kept in, as in STANDARD_IA.",
}


def with_s3_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with --s3-endpoint, --s3-region and --s3-storage-class, which it gets as a part of its `store`, and
    of the store `to` where it has one."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(f"s3_{name}") for name in OPTIONS}
        stores = {name: kwargs[name] for name in ("store", "to") if name in kwargs}
        in_s3 = {name: url for name, url in stores.items() if url.startswith("s3:")} or {"store": stores["store"]}
        return command(*args, **kwargs | {name: _with_options(url, given) for name, url in in_s3.items()})

    signature = inspect.signature(command)
    added = {
        f"s3_{name}": Annotated[
            str,
            typer.Option(f"--s3-{name.replace('_', '-')}", envvar=_variable(name), help=S3_HELP[name]),
        ]
        for name in OPTIONS
    }
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=annotation)
        for name, annotation in added.items()
    ]
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *parameters])  # type: ignore[attr-defined]
    wrapped.__annotations__ = command.__annotations__ | added
    return wrapped


def _variable(option: str) -> str:
    return f"BREWLINE_S3_{option.upper()}"


def _with_options(store: str, given: dict[str, str]) -> str:
    """The store's URL with the options that were given. Those of the environment yield to the URL and to a folder."""
    asked = {name for name in OPTIONS if given[name] and given[name] != os.environ.get(_variable(name))}
    if not store.startswith("s3:"):
        for name in sorted(asked):
            raise InputError(
                f"--s3-{name.replace('_', '-')} {without_user(given[name])}: --store {store} is a folder; "
                "leave the option out, or give --store s3://bucket/prefix"
            )
        return store
    address = parse(store)
    for name in OPTIONS:
        known = getattr(address, name)
        if name in asked and known and known != given[name]:
            raise InputError(f"--s3-{name.replace('_', '-')}: the store's own {name} is {known}; give one of the two")
    return replace(address, **{name: given[name] for name in OPTIONS if given[name] and not getattr(address, name)}).url


def reached(store: str) -> Store:
    """The store at a URL, which answers. Raises InputError within seconds where it does not."""
    opened = open_store(store)
    opened.reach()
    return opened


cache = typer.Typer(no_args_is_help=True, help="Look into the store, take steps out of it, copy and clean it.")
results = typer.Typer(no_args_is_help=True, help="Keep results of runs, and make the page of their tables.")


@cache.command("ls")
@with_s3_options
def cache_list(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None, store: StoreOption = DEFAULT_STORE
) -> None:
    """List the steps in the store: stage, key, size, seconds it took, when and where."""
    for manifest in reached(store).manifests(stage):
        size = sum(blob.size for blob in manifest.blobs)
        facts = manifest.provenance
        print(
            f"{manifest.stage:<10} {manifest.key[:SHOWN]}  {size / 1e6:>10.2f} MB  {facts['seconds']:>8.1f} s  "
            f"{facts['started']}  {facts['host']}"
        )


@cache.command("verify")
@with_s3_options
def cache_verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Read every output in the store and compare it with its checksum. Exits with 1 if any is damaged."""
    opened, damaged, count = reached(store), 0, 0
    for manifest in opened.manifests():
        count += 1
        for problem in opened.verify(manifest):
            damaged += 1
            print(f"{manifest.stage} {manifest.key[:SHOWN]}: {problem}")
    print(f"{count} steps, {damaged} damaged outputs")
    if damaged:
        print("`brewline cache rm KEY …` takes their steps out; they run again, and are repaired, when they are needed")
    raise typer.Exit(FAILED if damaged else DONE)


@cache.command("rm")
@with_s3_options
def cache_remove(
    keys: Annotated[list[str], typer.Argument(help="Keys, or their first characters (4 at least).")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Take steps out of the store, so that they run again when they are needed."""
    opened = reached(store)
    found = []
    for key in keys:
        matches = opened.find(key)
        if len(matches) != 1:
            listed = ", ".join(f"{stage} {whole[:16]}" for stage, whole in matches) or "none"
            raise InputError(f"key {key!r} must name one step, and it names {listed}; nothing was removed")
        found += matches
    for stage, whole in found:
        opened.remove(stage, whole)
        print(f"removed {stage} {whole[:SHOWN]}")


@cache.command("gc")
@with_s3_options
def cache_collect(
    grace: Annotated[
        str, typer.Option(help="Leave what is younger: longer than any commit takes. 90s, 30m, 12h, 7d.")
    ] = "7d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove outputs that no step in the store names, and what crashes left. Runs that go on are not disturbed."""
    seconds = _seconds(grace)
    opened = open_store(store)
    opened.probe()
    for run in opened.runs() if seconds < GRACE_SECONDS else ():
        if goes_on(opened, run):
            raise InputError(
                f"--grace {grace}: run {run} goes on, and its commits rely on outputs that nobody touches for "
                f"{GRACE_SECONDS / 86400:.0f} days; give {GRACE_SECONDS / 86400:.0f}d, or wait until it has ended"
            )
    found = collect(opened, seconds, dry_run)
    print(
        f"{'would remove' if dry_run else 'removed'} {found.blobs} outputs that no step names "
        f"({found.blob_bytes / 1e9:.3f} GB) and {found.leftovers} leftovers of crashes "
        f"({found.leftover_bytes / 1e9:.3f} GB), untouched for {grace}; {found.kept} outputs stay"
    )


@cache.command("copy")
@with_s3_options
def cache_copy(
    run: Annotated[str, typer.Argument(help="A run; its steps need not all be done.")],
    to: Annotated[str, typer.Option(help="The store to copy to.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Copy a run and its steps to another store, where it then counts as run. The same command resumes."""
    source, target = open_store(store), open_store(to)
    if source.url == target.url:
        raise InputError(f"--to {to}: that is the store to copy from; give another")
    source.reach()
    steps = [(step["stage"], step["key"]) for step in planned(source, run)]
    target.probe()
    what = compare(source, target, steps)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("copy", total=what.size)
        transfer(source, target, what, lambda size: progress.advance(task, size))
    files = copy_run(source, target, run)
    print(
        f"copied {len(what.steps)} steps ({len(what.blobs)} outputs, {what.size / 1e9:.3f} GB) and {files} files of "
        f"run {run} to {target.url}; it had {what.there} steps"
        + (f"; {what.absent} are not done yet, so not in {source.url}" if what.absent else "")
    )


def _seconds(text: str) -> float:
    """A duration in seconds. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        raise InputError(f"--grace {text}: expected a number and s, m, h or d, as in 90s, 30m, 12h or 7d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


@results.command("add")
@with_s3_options
def results_add(
    runs: Annotated[list[str], typer.Argument(metavar="RUN|SWEEP…", help="A finished run, or sweeps side by side.")],
    name: Annotated[str, typer.Argument(help="The result's name: its file is NAME.json.")],
    folder: FolderOption = Path("results"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the figures of a finished run, or of sweeps, with all that is needed to run it again, to one JSON file."""
    print(kept.add(reached(store), runs, name, folder))


@results.command("tables")
def results_tables(folder: FolderOption = Path("results")) -> None:
    """Make the page of tables from the JSON files."""
    (folder / kept.PAGE).write_text(kept.page(folder))
    print(folder / kept.PAGE)
