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
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipeline import runs
from pipeline.cli_store import DEFAULT_STORE, FAILED, StoreOption, reached
from pipeline.store import Manifest, Store
from pipeline.store.s3_address import Address
from stages.config import InputError, nearest
from stages.data.cases import class_names
from stages.interchange import FORMATS, Content, Format


def export(
    run: Annotated[str, typer.Argument(help="A run; `brewline status` lists them.")],
    case: Annotated[int, typer.Option(help="The case, as the tables number it.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")],
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", metavar="DIR", help="The folder to make; s3://bucket/path: a beton, by the server."
        ),
    ],
    variant: Annotated[str | None, typer.Option(help="The variant, where the run has several.")] = None,
    only_poisons: Annotated[bool, typer.Option("--only-poisons", help="The poisons without the dataset.")] = False,
    prefix: Annotated[str, typer.Option(metavar="gs://…", help="automl: where the folder will be uploaded to.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="In S3: in place of an export there.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a case's poisoned dataset, or its poisons, in a form that other tools read."""
    chosen = _format(form)
    if prefix and form != "automl":
        raise InputError(f"--prefix is for the format automl; leave it out with {form}")
    opened = reached(store)
    if out.startswith("s3:"):
        from pipeline import bucket_export

        to = bucket_export.target(out, opened, form, only_poisons)
        _to_bucket(to, overwrite, find(opened, run, variant, case), opened)
        return
    if overwrite:
        raise InputError(f"--overwrite is for an --out in S3, and {out} is a folder; choose another folder instead")
    source = find(opened, run, variant, case)
    folder = Path(out).expanduser().resolve()

    from stages.interchange import delivery

    delivery.check_target(folder)
    with source.fetched(opened) as folders:
        content = content_of(folders, only_poisons or chosen.only_poisons, prefix)
        about = _about(source, content, form)
        if chosen.refuse is not None:
            chosen.refuse(content)
        written, read_back = delivery.counts(content)
        with _verified(), _shown({f"write {form}": written, "read back": read_back}) as (writing, reading):
            delivery.deliver(chosen, content, folder, about, writing, reading)
    print(f"{folder}: {_told(content)}")


def _to_bucket(to: Address, overwrite: bool, source: "Source", store: Store) -> None:
    """The same in a bucket; its server copies what no poison touches."""
    from pipeline import bucket_export
    from stages.interchange import delivery
    from stages.shards import overlay, poisons

    bucket_export.check_target(to, overwrite)
    chosen = FORMATS[bucket_export.FORM]
    try:
        with source.fetched(store, but=bucket_export.SUFFIX) as folders, tempfile.TemporaryDirectory() as made:
            replaced = poisons.load(folders["overlay"], overlay.STEM).ids
            base = bucket_export.outlined(store, source.manifest(store, "dataset"), folders["dataset"], replaced)
            content = content_of(folders, False, "")
            if chosen.refuse is not None:
                chosen.refuse(content)
            export = bucket_export.BucketExport(to, base, content)
            copied, uploaded = export.traffic
            moved = {"copied by the server": copied, "uploaded": uploaded}
            reads = {"read back": delivery.counts(content)[1]}
            with _verified(), _shown(reads, moved) as (copying, uploading, reading):

                def tell(by_server: int, by_us: int) -> None:
                    copying(by_server)
                    uploading(by_us)

                export.make(_about(source, content, bucket_export.FORM), Path(made), overwrite, tell, reading)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: cannot hold what is needed to check the export ({error}): sparse files as large "
            "as the base, of which only tables and some images are written; set TMPDIR to another disk"
        ) from error
    print(f"{to.place}: {_told(content)}")
    print(f"{decimal(copied)} copied by the server, {decimal(uploaded)} uploaded")


@contextmanager
def _verified() -> Iterator[None]:
    """Ends the command where what was written does not read back."""
    from stages.interchange.delivery import NotVerifiedError

    try:
        yield
    except NotVerifiedError as error:
        print(f"brewline: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def _told(content: Content) -> str:
    """What was written, for people."""
    from stages.interchange.delivery import counts

    written, read_back = counts(content)
    what = "poisons" if content.only_poisons else f"images, {len(content.poisons)} of them poisons"
    return f"{written} {what}; all poisons and {read_back - len(content.poisons)} other images read back"


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

    def manifest(self, store: Store, role: str) -> Manifest:
        """What a step left. Raises InputError for a step that is not done."""
        step = self.steps[role]
        manifest = store.read(step["stage"], step["key"])
        if manifest is None:
            raise InputError(
                f"run {self.run}: {step['label']!r} is not done, so there is nothing to export; "
                "`brewline run` goes on with the run"
            )
        return manifest

    @contextmanager
    def fetched(self, store: Store, but: str | None = None) -> Iterator[dict[str, Path]]:
        """The steps' outputs as folders, without the files whose names end with `but`. Raises as `manifest` does."""
        with tempfile.TemporaryDirectory() as temporary:
            folders = {role: Path(temporary) / role for role in self.steps}
            for role, folder in folders.items():
                manifest = self.manifest(store, role)
                blobs = tuple(blob for blob in manifest.blobs if but is None or not blob.name.endswith(but))
                store.fetch(manifest.model_copy(update={"blobs": blobs}), folder)
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
    if summaries[name]["stage"] == "tally":
        raise InputError(
            f"run {run} is of an attack without targets, whose poisons come in no other format yet; they are what its "
            "`export` steps left in the store, as Arrow"
        )
    inputs = summaries[name]["inputs"]
    count = sum(role.startswith("case.") for role in inputs)
    if not 0 <= case < count:
        raise InputError(f"--case {case}: run {run} has cases 0 to {count - 1}")
    roles = {"dataset": "dataset", "case": f"case.{case}", "overlay": f"overlay.{case}"}
    return Source(run, name, case, {role: steps[inputs[of]] for role, of in roles.items()})


def content_of(folders: Mapping[str, Path], only_poisons: bool, prefix: str) -> Content:
    """What is exported, of the folders of the steps that made it; its poisons are checked against the base."""
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
    named = class_names(case, info.classes)
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
        "poison_class": named["poison_class"],
        "targets": {
            "ids": list(case.target_ids),
            "true_class": named["target_class"],
            "intended_class": named["intended_class"],
        },
    }


class _Done(ProgressColumn):
    """How many of how many."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['said'](task.completed)}/{task.fields['said'](task.total)}")


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.fields['said'](task.speed)}{task.fields['of']}/s")


@contextmanager
def _shown(images: Mapping[str, int], moved: Mapping[str, int] | None = None) -> Iterator[list[Callable[[int], None]]]:
    """A bar for each part of the work, and what its part tells of what is done: first bytes that move, then images."""
    columns = (TextColumn("{task.description}"), BarColumn(), _Done(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bars = [progress.add_task(what, total=total, said=_bytes, of="") for what, total in (moved or {}).items()]
        bars += [progress.add_task(what, total=total, said=_count, of=" images") for what, total in images.items()]
        yield [partial(progress.advance, bar) for bar in bars]


def _bytes(number: float) -> str:
    return decimal(int(number))


def _count(number: float) -> str:
    return f"{number:,.0f}"
