"""A poisoned `.beton` that the server makes in its bucket, out of a base that is there already.

Neither the base nor its copy comes to this machine: only tables, the poisons, and the few images that are read back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store import DamagedBlob, Manifest, Store
from pipeline.store.s3_address import Address, parse, without_user
from pipeline.store.s3_client import Patience
from pipeline.store.s3_compose import Part, Stored, Tell, compose, exists, parts_of, stored, traffic
from pipeline.store.s3_names import blob_name
from pipeline.store.s3_objects import Objects
from stages.config import InputError
from stages.interchange import FORMATS, Content
from stages.interchange.delivery import ABOUT, described, sampled, verify
from stages.shards.config import SPLITS, Split

FORM, SUFFIX = "beton", ".beton"
FILES = (*(f"{split}{SUFFIX}" for split in SPLITS), ABOUT)
OWN = ("blobs", "steps", "runs", "scratch", "leases", "probe")
"""Folders of a store."""


def target(out: str, store: Store, form: str, only_poisons: bool) -> Address:
    """Where in S3 `out` is. Raises InputError where the server cannot make it there; nothing is asked of it yet."""
    shown, elsewhere = without_user(out), "export to a folder, and copy that with `aws s3 cp --recursive` or rclone"
    if form != FORM or only_poisons:
        what = "poisons alone are" if only_poisons else f"--format {form} is"
        raise InputError(f"--out {shown}: {what} not made in a bucket, only a whole --format {FORM}; {elsewhere}")
    if not store.url.startswith("s3:"):
        raise InputError(f"--out {shown}: the store {store.url} is a folder, and S3 copies from S3 only; {elsewhere}")
    try:
        asked, base = parse(out), parse(store.url)
    except InputError as error:
        raise InputError(f"--out: {error}") from None
    if asked.endpoint and asked.endpoint != base.endpoint:
        raise InputError(
            f"--out {shown}: its endpoint is not the store's, {base.endpoint or 'AWS'}, and a server copies what it "
            f"has; leave the endpoint out, or {elsewhere}"
        )
    if not asked.prefix:
        raise InputError(f"--out {shown}: is a whole bucket; name a folder in it, as in s3://{asked.bucket}/poisoned")
    inside = base.key("") if asked.bucket == base.bucket else None
    if inside is not None and f"{asked.prefix}/".startswith(tuple(f"{inside}{own}/" for own in OWN)):
        raise InputError(f"--out {shown}: is where the store keeps what is its own; name another folder")
    return replace(asked, endpoint=base.endpoint, region=asked.region or base.region)


def check_target(to: Address, overwrite: bool) -> None:
    """Raises InputError for what is in the way: anything, or with `overwrite` what is not an export's."""
    for found in Objects(to, Patience()).names(""):
        if not overwrite:
            raise exists(f"{to.place}/{found.name}")
        if found.name not in FILES:
            raise InputError(f"{to.place}/{found.name}: is no part of an export; choose another place")


@dataclass(frozen=True)
class Base:
    """A base's shards where they are, and their outlines (see `shards.beton_remote`) in a folder."""

    shards: Mapping[Split, list[Stored]]
    outlines: Mapping[Split, tuple[Path, ...]]


def outlined(store: Store, manifest: Manifest, folder: Path, poisons: np.ndarray) -> Base:
    """The base of a committed `prepare` step, whose `dataset.json` lies in `folder`: outlines are made beside it.

    poisons: int64, the train images that are replaced; they are in the outlines, and what is read back. Raises
    InputError for shards of another format, DamagedBlob for one that is not there whole.
    """
    from stages.shards import base_shards, beton, beton_remote

    objects, blobs = Objects(parse(store.url), Patience()), {blob.name: blob for blob in manifest.blobs}
    outlines = base_shards.files(folder)
    shards: dict[Split, list[Stored]] = {}
    for split, files in outlines.items():
        shards[split] = []
        for file in files:
            if file.suffix != SUFFIX:
                raise InputError(
                    f"{file.name}: the server makes a {SUFFIX} out of {SUFFIX} shards only; run the experiment with "
                    "shards.format: beton, or export to a folder and copy that"
                )
            blob = blobs[file.name]
            found = stored(objects, blob_name(blob.sha256))
            if found is None or found.size != blob.size:
                problem = f"has {found.size} bytes, not {blob.size}" if found else "is not in the store"
                raise DamagedBlob(manifest.stage, manifest.key, blob.name, problem)
            beton_remote.outline(found, file)
            shards[split].append(found)
        count = sum(len(beton.read(file)) for file in files)
        replaced = np.isin(np.arange(count), poisons) if split == "train" else np.zeros(count, bool)
        beton_remote.fill(shards[split], files, sampled(replaced))
    return Base(shards, outlines)


class BucketExport:
    """One case's poisoned dataset on its way into a bucket."""

    def __init__(self, to: Address, base: Base, content: Content) -> None:
        from stages.shards import beton_remote

        self._objects, self._base, self._content = Objects(to, Patience()), base, content
        self._parts: dict[Split, list[Part]] = {}
        for split, rows in content.splits.items():
            poisons = np.flatnonzero(rows.poison)
            self._parts[split] = parts_of(beton_remote.pieces(base.outlines[split], poisons, rows.at(poisons).images))

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes that the server will copy, and that will be uploaded."""
        copied, uploaded = np.sum([traffic(parts) for parts in self._parts.values()], axis=0).tolist()
        return copied, uploaded

    def make(
        self, about: Mapping[str, Any], folder: Path, overwrite: bool, moved: Tell, read: Callable[[int], None]
    ) -> None:
        """Make the files, read them back into an empty `folder`, and put `about.json`, which says that all is whole.

        moved: told of bytes that are copied by the server, and uploaded.  read: told of images that are read back.
        Raises NotVerifiedError where a poison or a clean image of the sample is another; after any error nothing of
        this export is left but what an interrupted upload leaves, which a rule of the bucket removes.
        """
        from stages.shards import beton_remote

        if overwrite:
            self._objects.delete(ABOUT)
        made: list[str] = []
        try:
            for split, rows in self._content.splits.items():
                file = folder / f"{split}{SUFFIX}"
                there = compose(
                    self._objects, file.name, self._parts[split], self._base.shards[split], overwrite, moved
                )
                made.append(file.name)
                beton_remote.outline(there, file)
                beton_remote.fill([there], [file], sampled(rows.poison))
            verify(FORMATS[FORM], self._content, folder, read)
            text = described(about, folder).encode()
            if not self._objects.put(ABOUT, text, new=True) and (self._objects.get(ABOUT) or (b"",))[0] != text:
                raise exists(self._objects.place(ABOUT))
        except BaseException:
            for name in made:
                self._objects.delete(name)
            raise
