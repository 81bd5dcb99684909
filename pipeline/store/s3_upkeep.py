"""What `brewline cache gc` and `brewline cache copy` need of a store in S3."""

import re
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.store.files import sha256_of
from pipeline.store.manifest import Blob, Manifest, StoreError
from pipeline.store.names import GRACE_SECONDS, LEASE_SECONDS
from pipeline.store.node_cache import NodeCache
from pipeline.store.s3_client import THREADS
from pipeline.store.s3_errors import S3Error, server_clock
from pipeline.store.s3_facts import Listed, Object, age
from pipeline.store.s3_names import blob_name
from pipeline.store.s3_objects import Objects


class Upkeep:
    """The part of a store in S3 that keeps it small, and brings it elsewhere."""

    _objects: Objects
    _settle: Callable[[Manifest, bool], Manifest]

    def blobs(self) -> Iterator[tuple[str, int, float]]:
        """The objects of a digest's name, by LIST."""
        for found in self._objects.names("blobs/"):
            if re.fullmatch(r"blobs/[0-9a-f]{64}", found.name):
                yield found.name.removeprefix("blobs/"), found.size, found.age

    def remove_blob(self, sha256: str, grace: float) -> bool:
        """S3 deletes on no condition of age. A commit that relies on a blob looks once more after its manifest."""
        found = self._objects.head(blob_name(sha256))
        if found is None or found.age < grace:
            return False
        self._objects.delete(blob_name(sha256))
        return True

    def sweep(self, grace: float, done: Collection[str], dry: bool) -> Iterator[tuple[str, int]]:
        """Pushed scratch, leases, what `probe` left, and uploads in parts that nobody goes on with."""
        for found, names in self._stale(grace, done):
            for name in () if dry else names:
                self._objects.delete(name)
            yield found.name, found.size
        for found, upload in self._uploads():
            if found.age >= grace:
                if not dry:
                    self._of_upload("abort_multipart_upload", found.name, upload)
                yield f"{found.name}?uploadId={upload}", found.size

    def _stale(self, grace: float, done: Collection[str]) -> Iterator[tuple[Listed, list[str]]]:
        """What is to go, as one, and the objects that it is."""
        pushed: dict[str, list[Listed]] = {}
        for found in self._objects.names("scratch/"):
            pushed.setdefault(found.name.split("/")[1], []).append(found)
        for key, parts in pushed.items():
            if key in done and (age := min(part.age for part in parts)) >= grace:
                size = sum(part.size for part in parts)
                yield Listed(f"scratch/{key}", size, age), [part.name for part in parts]
        for folder, least in (("leases/", LEASE_SECONDS), ("probe/", 0.0)):
            for found in self._objects.names(folder):
                if found.age >= max(grace, least):
                    yield found, [found.name]

    @contextmanager
    def blob_file(self, blob: Blob) -> Iterator[Path]:
        """Downloaded beside this node's cache: what is copied is read once."""
        cache, place = NodeCache.of_node(), self._objects.place(blob_name(blob.sha256))
        with cache.passing() as path:
            try:
                if not self._objects.download(blob_name(blob.sha256), path):
                    raise StoreError(f"{place} is not in the store; run the step again to repair it")
            except OSError as error:
                raise cache.explained(error, path, blob.size) from error
            if sha256_of(path) != blob.sha256:
                raise StoreError(f"{place} holds other bytes than its sha256 says; run the step again to repair it")
            yield path

    def upload(self, blob: Blob, source: Path) -> None:
        """Hashed here; the server checks each part."""
        if sha256_of(source) != blob.sha256:
            raise StoreError(f"{source} holds other bytes than blob {blob.sha256}")
        self._objects.upload(source, blob_name(blob.sha256), blob.sha256)

    def give_up(self) -> None:
        """Of all threads."""
        self._objects.give_up()

    def settle(self, manifest: Manifest) -> Manifest:
        """Look at the blobs, and refresh the old ones so that `cache gc` leaves them alone; then write."""
        if gone := self._absent(manifest):
            raise StoreError(f"{gone} is missing or of another size; store it first")
        settled = self._settle(manifest, False)
        if gone := self._absent(settled):
            raise StoreError(f"{gone} was collected as its manifest was written; copy it again")
        return settled

    def _absent(self, manifest: Manifest) -> str:
        """Where a blob should be that is missing; empty where all are there."""
        with ThreadPoolExecutor(THREADS) as pool:
            lacking = [blob for blob in pool.map(self._lacking, manifest.blobs) if blob is not None]
        return self._objects.place(blob_name(lacking[0].sha256)) if lacking else ""

    def _lacking(self, blob: Blob) -> Blob | None:
        found = self._objects.head(blob_name(blob.sha256))
        if found is None or found.size != blob.size:
            return blob
        self._refresh(blob, found)
        return None

    def _refresh(self, blob: Blob, found: Object) -> bool:
        """Make a blob young that `cache gc` could soon take; says whether it was old. Raises S3Error."""
        old = found.age > GRACE_SECONDS / 2
        if old:
            self._objects.refresh(blob_name(blob.sha256), blob.sha256)
        return old

    def _uploads(self) -> Iterator[tuple[Listed, str]]:
        """Uploads in parts that were not ended, as old as their youngest part; and their ids."""
        start = f"{self._objects.address.prefix}/".lstrip("/")
        marker: dict[str, str] = {}
        while True:
            answer = self._objects.call("list_multipart_uploads", None, Prefix=start, **marker)
            for entry in answer.get("Uploads", ()):
                name, upload = entry["Key"].removeprefix(start), entry["UploadId"]
                if (found := self._upload(name, upload, entry["Initiated"])) is not None:
                    yield found, upload
            if not answer.get("IsTruncated"):
                return
            marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _upload(self, name: str, upload: str, newest: datetime) -> Listed | None:
        """An upload in parts that was begun at `newest`; None where it has ended meanwhile."""
        size = 0
        marker: dict[str, int] = {}
        while (answer := self._of_upload("list_parts", name, upload, **marker)) is not None:
            parts = answer.get("Parts", ())
            newest = max([newest, *(part["LastModified"] for part in parts)])
            size += sum(part["Size"] for part in parts)
            if not answer.get("IsTruncated"):
                return Listed(name, size, age(newest, server_clock(answer)))
            marker = {"PartNumberMarker": answer["NextPartNumberMarker"]}
        return None

    def _of_upload(self, method: str, name: str, upload: str, **options: Any) -> Any:
        """A request about an upload in parts; None where there is none any more."""
        try:
            return self._objects.call(method, name, UploadId=upload, **options)
        except S3Error as error:
            if error.code != "NoSuchUpload":
                raise
            return None
