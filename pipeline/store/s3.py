"""A store in a bucket of S3, or of anything that speaks S3 and honours conditional writes, which `probe` tries out.

Blobs are uploaded first and looked at; then the manifest is created on the condition that there is none. An answer may
get lost and a request be repeated, so a condition that does not hold is looked into: what is there may be our own.
Inputs come through this node's cache, and steps work in scratch folders on the node's disk.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.store.files import plain_files, sha256_of
from pipeline.store.manifest import Blob, DamagedBlob, Manifest, StoreError
from pipeline.store.names import MANY, key_prefix
from pipeline.store.node_cache import lay
from pipeline.store.s3_address import Address
from pipeline.store.s3_client import THREADS, Patience
from pipeline.store.s3_errors import S3Error
from pipeline.store.s3_facts import Object
from pipeline.store.s3_lease import Leases
from pipeline.store.s3_names import blob_name, keys_of, manifest_name
from pipeline.store.s3_objects import Objects
from pipeline.store.s3_runs import Runs, Segments
from pipeline.store.s3_scratch import Scratch
from pipeline.store.s3_upkeep import Upkeep

log = logging.getLogger(__name__)

FILES = 4
"""Files that are hashed, uploaded or downloaded at once; the parts of each go in parallel besides."""


class S3Store(Leases, Runs, Scratch, Upkeep):
    """The store at an address. It is pickled without its connections, so it may be sent to other processes."""

    def __init__(self, address: Address, patience: Patience | None = None) -> None:
        self.url = address.url
        self._address, self._patience = address, patience or Patience()
        self._objects = Objects(self._address, self._patience)
        self._segments = Segments(self._objects)
        self._held = {}

    def __reduce__(self) -> Any:
        return S3Store, (self._address, self._patience)

    def probe(self) -> None:
        """Each request that a commit makes, below `probe/`; and this node's cache."""
        from pipeline.store.s3_probe import probe

        probe(self._address)
        self._cache.probe()

    def reach(self) -> None:
        """The first request of `probe`."""
        from pipeline.store.s3_probe import reach

        reach(self._address)

    def read(self, stage: str, key: str) -> Manifest | None:
        """The step's manifest."""
        found = self._read(stage, key)
        return found[0] if found else None

    def missing(self, manifest: Manifest) -> list[Blob]:
        """By HEAD, or by LIST where there are many."""
        sizes = self._objects.sizes("blobs", {blob.sha256 for blob in manifest.blobs})
        return [blob for blob in manifest.blobs if sizes.get(blob.sha256) != blob.size]

    def look(self, steps: Iterable[tuple[str, str]]) -> Iterator[tuple[Manifest, list[Blob]]]:
        """Manifests and blobs of all the steps at once; where there are many, those that are absent by LIST."""
        wanted = list(dict.fromkeys(steps))
        if len(wanted) >= MANY:
            there: dict[tuple[str, str], int] = {}
            for stage in {stage for stage, _ in wanted}:
                names = {f"{key}.json": (stage, key) for of, key in wanted if of == stage}
                there |= {names[name]: size for name, size in self._objects.sizes(f"steps/{stage}", names).items()}
            wanted = [step for step in wanted if step in there]
        with ThreadPoolExecutor(THREADS) as pool:
            manifests = [manifest for manifest in pool.map(lambda step: self.read(*step), wanted) if manifest]
        sizes = self._objects.sizes("blobs", {blob.sha256 for manifest in manifests for blob in manifest.blobs})
        for manifest in manifests:
            yield manifest, [blob for blob in manifest.blobs if sizes.get(blob.sha256) != blob.size]

    def verify(self, manifest: Manifest) -> list[str]:
        """Every blob read and hashed as it comes in."""
        with ThreadPoolExecutor(FILES) as pool:
            problems = pool.map(self._content_problem, manifest.blobs)
            return [
                f"{blob.name} ({self._objects.place(blob_name(blob.sha256))}) {problem}"
                for blob, problem in zip(manifest.blobs, problems, strict=True)
                if problem
            ]

    def fetch(self, manifest: Manifest, folder: Path) -> None:
        """Symbolic links to this node's cache, where the blobs are pinned as long as `folder` is there."""
        folder.mkdir(parents=True, exist_ok=True)
        cache = self._cache
        try:
            pin = cache.pin(folder)
            with ThreadPoolExecutor(FILES) as pool:
                blobs = list({blob.sha256: blob for blob in manifest.blobs}.values())
                found = pool.map(
                    lambda blob: cache.hold(blob, pin, partial(self._objects.download, blob_name(blob.sha256))), blobs
                )
                problems = dict(zip((blob.sha256 for blob in blobs), found, strict=True))
        except OSError as error:
            raise cache.explained(error, folder, sum(blob.size for blob in manifest.blobs)) from error
        for blob in manifest.blobs:
            if problem := problems[blob.sha256]:
                raise DamagedBlob(manifest.stage, manifest.key, blob.name, problem)
            lay(pin / blob.sha256, folder / blob.name)

    def commit(self, folder: Path, draft: Manifest, again: bool = False) -> Manifest:
        """Blobs first, then the manifest. What is there is taken for whole by its size and its uploader's word for its
        sha256; with `again` it is uploaded anew, and others' blobs are read and hashed."""
        try:
            outputs = plain_files(folder, self._cache.holds)
            with ThreadPoolExecutor(FILES) as pool:
                blobs = tuple(pool.map(lambda output: self._store(output[0], output[1], again), outputs))
            manifest = self._settle(draft.model_copy(update={"blobs": blobs}), again)
            if manifest.write_id == draft.write_id:
                # A blob that was there may have been collected before the manifest named it.
                gone = {blob.name for blob in self.missing(manifest)}
                for name, path in outputs:
                    if name in gone:
                        self._store(name, path, again=True)
            return manifest
        except FileNotFoundError as error:
            # Another attempt that committed this step has cleared its scratch, and this folder with it.
            theirs = self.read(draft.stage, draft.key)
            if theirs is None or (self.verify(theirs) if again else self.missing(theirs)):
                raise StoreError(f"output {error.filename} of {draft.stage} is gone; run the step again") from error
            return theirs
        except OSError as error:
            raise StoreError(f"store {self.url}: {error}; what was to be stored is still in {folder}") from error

    def manifests(self, stage: str | None = None) -> Iterator[Manifest]:
        """All committed steps, read a page of a LIST at a time."""
        for of in [stage] if stage else self._objects.folders("steps/"):
            for page in self._objects.pages(f"steps/{of}/"):
                keys = keys_of(page)
                with ThreadPoolExecutor(THREADS) as pool:
                    yield from filter(None, pool.map(lambda key, of=of: self.read(of, key), keys))

    def keys(self, stage: str) -> set[str]:
        """The objects' names."""
        return set(keys_of(self._objects.names(f"steps/{stage}/")))

    def find(self, prefix: str) -> list[tuple[str, str]]:
        """By the objects' names."""
        begin = key_prefix(prefix)
        return [
            (stage, key)
            for stage in self._objects.folders("steps/")
            for key in keys_of(self._objects.names(f"steps/{stage}/{begin}"))
        ]

    def remove(self, stage: str, key: str) -> bool:
        """Drop the step's manifest."""
        there = self._objects.head(manifest_name(stage, key)) is not None
        if there:
            self._objects.delete(manifest_name(stage, key))
        return there

    def place(self, name: str) -> str:
        """An address."""
        return self._objects.place(name)

    def _read(self, stage: str, key: str) -> tuple[Manifest, str] | None:
        """The step's manifest and its ETag."""
        name = manifest_name(stage, key)
        found = self._objects.get(name)
        return (Manifest.from_json(found[0], self.place(name), stage, key), found[1].etag) if found else None

    def _problem(self, blob: Blob) -> str | None:
        """What is wrong with a stored blob, by its size and its uploader's word."""
        found = self._objects.head(blob_name(blob.sha256))
        if found is None:
            return "is not in the store"
        if found.size != blob.size:
            return f"has {found.size} bytes, not {blob.size}"
        return None if found.sha256 == blob.sha256 else "was not written by brewline"

    def _content_problem(self, blob: Blob) -> str | None:
        """What is wrong with a stored blob, by its bytes."""
        found = self._objects.sha256(blob_name(blob.sha256))
        if found is None:
            return "is not in the store"
        digest, facts = found
        if facts.size != blob.size:
            return f"has {facts.size} bytes, not {blob.size}"
        return None if digest == blob.sha256 else "holds other bytes than its sha256 says"

    def _store(self, name: str, source: Path, again: bool) -> Blob:
        """Bring one output file in as a blob: kept if it is there, put in its place if it is damaged.

        An output that is a link to a fetched blob is that blob: it was hashed when it was fetched, and is not read. The
        store's own may have been damaged since this node's was fetched, so with `again` that is read and hashed.
        """
        linked = source.is_symlink()
        digest = source.resolve().name if linked else sha256_of(source)
        blob = Blob(name=name, size=source.stat().st_size, sha256=digest)
        found = None if again and not linked else self._objects.head(blob_name(blob.sha256))
        if (
            found is not None
            and (found.size, found.sha256) == (blob.size, digest)
            and not (again and self._content_problem(blob))
            and self._stays(blob, found)
        ):
            return blob
        self._objects.upload(source, blob_name(digest), digest)
        place = self.place(blob_name(digest))
        if problem := self._problem(blob):
            raise StoreError(f"{source} did not arrive whole in {place}: it {problem}; run again")
        if found is not None:
            log.warning("repaired %s of %s: it had %s bytes", name, place, f"{found.size:,}")
        return blob

    def _stays(self, blob: Blob, found: Object) -> bool:
        """Whether `cache gc` leaves a blob alone: it is young, or could be made so."""
        with suppress(S3Error):  # it was collected just now, or may not be copied
            return not self._refresh(blob, found) or self._problem(blob) is None
        return False

    def _settle(self, manifest: Manifest, again: bool) -> Manifest:
        """Write the manifest unless a whole one is there: the one that counts."""
        name, data = manifest_name(manifest.stage, manifest.key), manifest.to_json()
        while not self._objects.put(name, data, new=True):
            found = self._read(manifest.stage, manifest.key)
            if found is None:
                continue  # removed since
            theirs, etag = found
            if theirs.write_id == manifest.write_id:
                return theirs  # our own, whose answer was lost
            problems = self._problems(theirs, manifest, again)
            if not problems:
                return theirs
            if self._objects.put(name, data, instead_of=etag):
                log.warning("replaced manifest %s: %s", self.place(name), "; ".join(problems))
                break
        return manifest

    def _problems(self, theirs: Manifest, ours: Manifest, again: bool) -> list[str]:
        """What is wrong with another attempt's blobs; those that are ours too were just looked at."""
        looked_at = {blob.sha256 for blob in ours.blobs}
        others = [blob for blob in theirs.blobs if blob.sha256 not in looked_at]
        with ThreadPoolExecutor(FILES) as pool:
            found = pool.map(self._content_problem if again else self._problem, others)
            return [f"{blob.name} {problem}" for blob, problem in zip(others, found, strict=True) if problem]
