"""The commands that only look at the store: `brewline cache …` and `brewline results …`."""

from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from pipeline import results as kept
from pipeline.step import SHOWN
from pipeline.store import open_store
from stages.config import InputError

DONE, FAILED = 0, 1

StoreOption = Annotated[
    str, typer.Option("--store", envvar="BREWLINE_STORE", help="Where outputs live; a folder of the user's cache.")
]
DEFAULT_STORE = str(Path(platformdirs.user_cache_dir("brewline")) / "store")
FolderOption = Annotated[Path, typer.Option(help="The folder of results.")]

cache = typer.Typer(no_args_is_help=True, help="Look into the store, and take steps out of it.")
results = typer.Typer(no_args_is_help=True, help="Keep results of runs, and make the page of their tables.")


@cache.command("ls")
def cache_list(
    stage: Annotated[str | None, typer.Option(help="Only this stage.")] = None, store: StoreOption = DEFAULT_STORE
) -> None:
    """List the steps in the store: stage, key, size, seconds it took, when and where."""
    for manifest in open_store(store).manifests(stage):
        size = sum(blob.size for blob in manifest.blobs)
        facts = manifest.provenance
        print(
            f"{manifest.stage:<10} {manifest.key[:SHOWN]}  {size / 1e6:>10.2f} MB  {facts['seconds']:>8.1f} s  "
            f"{facts['started']}  {facts['host']}"
        )


@cache.command("verify")
def cache_verify(store: StoreOption = DEFAULT_STORE) -> None:
    """Read every output in the store and compare it with its checksum. Exits with 1 if any is damaged."""
    opened, damaged, count = open_store(store), 0, 0
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
def cache_remove(
    keys: Annotated[list[str], typer.Argument(help="Keys, or their first characters (4 at least).")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Take steps out of the store, so that they run again when they are needed."""
    opened = open_store(store)
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


@results.command("add")
def results_add(
    run: Annotated[str, typer.Argument(help="A finished run.")],
    name: Annotated[str, typer.Argument(help="The result's name: its file is NAME.json.")],
    folder: FolderOption = Path("results"),
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a finished run's figures, with all that is needed to run it again, to one JSON file."""
    print(kept.add(open_store(store), run, name, folder))


@results.command("tables")
def results_tables(folder: FolderOption = Path("results")) -> None:
    """Make the page of tables from the JSON files."""
    (folder / kept.PAGE).write_text(kept.page(folder))
    print(folder / kept.PAGE)
