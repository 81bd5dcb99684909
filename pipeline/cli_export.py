"""The command `brewline export`: a case's poisoned dataset, out of the store, for people who train with other tools."""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline import runs
from pipeline.cli_store import DEFAULT_STORE, FAILED, StoreOption
from pipeline.step import Ref
from pipeline.store import Store, open_store
from stages.config import InputError, nearest
from stages.interchange import FORMATS, Content, Format


def export(
    run: Annotated[str, typer.Argument(help="A run; `brewline status` lists them.")],
    case: Annotated[int, typer.Option(help="The case, as the tables number it.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to make.")],
    variant: Annotated[str | None, typer.Option(help="The variant, where the run has several.")] = None,
    only_poisons: Annotated[bool, typer.Option("--only-poisons", help="The poisons without the dataset.")] = False,
    prefix: Annotated[str, typer.Option(metavar="gs://…", help="automl: where the folder will be uploaded to.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a case's poisoned dataset, or its poisons, in a form that other tools read."""
    chosen = _format(form)
    if prefix and form != "automl":
        raise InputError(f"--prefix is for the format automl; leave it out with {form}")
    opened = open_store(store)
    source = find(opened, run, variant, case)
    folder = out.expanduser().resolve()

    from stages.interchange import delivery

    delivery.check_target(folder)
    with source.fetched(opened) as folders:
        content = _content(folders, only_poisons or chosen.only_poisons, prefix)
        about = _about(source, content, form)
        if chosen.refuse is not None:
            chosen.refuse(content)
        written, read_back = delivery.counts(content)
        try:
            with _shown({f"write {form}": written, "read back": read_back}) as (writing, reading):
                delivery.deliver(chosen, content, folder, about, writing, reading)
        except delivery.NotVerifiedError as error:
            print(f"brewline: {error}", file=sys.stderr)
            raise typer.Exit(FAILED) from error
    what = "poisons" if content.only_poisons else f"images, {len(content.poisons)} of them poisons"
    print(f"{folder}: {written} {what}; all poisons and {read_back - len(content.poisons)} other images read back")


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"--format {name}: no such format; {nearest(name, FORMATS)}")
    return FORMATS[name]


@dataclass(frozen=True)
class Source:
    """Where a case's poisoned dataset lies in the store: the steps that made it, by what they are of it."""

    run: str
    variant: str
    case: int
    steps: Mapping[str, Mapping[str, Any]]
    """`dataset`, `case` and `overlay`, as the run's plan has them."""

    @contextmanager
    def fetched(self, store: Store) -> Iterator[dict[str, Path]]:
        """The steps' outputs as folders. Raises InputError for a step that is not done."""
        with tempfile.TemporaryDirectory() as temporary:
            folders = {role: Path(temporary) / role for role in self.steps}
            for role, step in self.steps.items():
                if not runs.fetch(store, Ref(step["stage"], step["key"]), folders[role]):
                    raise InputError(
                        f"run {self.run}: {step['label']!r} is not done, so there is nothing to export; "
                        "`brewline run` goes on with the run"
                    )
            yield folders


def find(store: Store, run: str, variant: str | None, case: int) -> Source:
    """The steps of a case. Raises InputError for a run, a variant or a case that is not there."""
    steps = {step["key"]: step for step in runs.planned(store, run)}
    summaries = {step["variant"]: step for step in steps.values() if "variant" in step}
    if variant is None and len(summaries) > 1:
        raise InputError(f"run {run} has several variants; choose one of {', '.join(summaries)} with --variant")
    if variant is not None and variant not in summaries:
        hint = "it has none, so leave --variant out" if set(summaries) == {""} else nearest(variant, summaries)
        raise InputError(f"run {run} has no variant {variant!r}; {hint}")
    name = next(iter(summaries)) if variant is None else variant
    inputs = summaries[name]["inputs"]
    count = sum(role.startswith("case.") for role in inputs)
    if not 0 <= case < count:
        raise InputError(f"--case {case}: run {run} has cases 0 to {count - 1}")
    roles = {"dataset": "dataset", "case": f"case.{case}", "overlay": f"overlay.{case}"}
    return Source(run, name, case, {role: steps[inputs[of]] for role, of in roles.items()})


def _content(folders: Mapping[str, Path], only_poisons: bool, prefix: str) -> Content:
    from stages.data.cases import load_case
    from stages.shards import base_shards, overlay, poisons

    dataset = base_shards.load(folders["dataset"])
    poison_set = poisons.load(folders["overlay"], overlay.STEM)
    poisons.check(poison_set, dataset.train, poison_set.info["eps"])
    files = base_shards.files(folders["dataset"])
    return Content(dataset, poison_set, load_case(folders["case"]), only_poisons, prefix, files)


def _about(source: Source, content: Content, form: str) -> dict[str, Any]:
    """What somebody who finds the folder needs to know, and to make it again."""
    info, case, poisons = content.dataset.info, content.case, content.poisons
    return {
        "what": "poisons of brewline" if content.only_poisons else "a dataset with poisons of brewline in it",
        "brewline": metadata.version("brewline"),
        "format": form,
        "run": source.run,
        "variant": source.variant,
        "case": source.case,
        "steps": {role: {"stage": step["stage"], "key": step["key"]} for role, step in source.steps.items()},
        "dataset": {"name": info.name, "classes": list(info.classes), "shape": list(info.shape)},
        "prepared_with": source.steps["dataset"]["params"],
        "N": len(content.dataset.train),
        "P": len(poisons),
        "eps": poisons.info["eps"],
        "max_difference": poisons.info["max_difference"],
        "poisons_sha256": poisons.sha256(),
        "poison_class": info.classes[case.poison_class],
        "targets": {
            "ids": list(case.target_ids),
            "true_class": info.classes[case.target_class],
            "intended_class": info.classes[case.intended_class],
        },
    }


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


@contextmanager
def _shown(totals: Mapping[str, int]) -> Iterator[list[Callable[[int], None]]]:
    """A bar for each part of the work, and what its part tells of images that are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield [partial(progress.advance, progress.add_task(what, total=total)) for what, total in totals.items()]
