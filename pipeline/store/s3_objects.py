"""Objects below one prefix of a bucket: whole small ones, large ones as files, and lists of them.

An answer may get lost after the request was done, so whoever writes on a condition reads back.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pipeline.store.s3_address import Address
from pipeline.store.s3_client import THREADS, Connection, Patience, broke_off, connect
from pipeline.store.s3_errors import ABSENT, CHANGED, S3Error, explained, redaction, server_clock
from pipeline.store.s3_facts import Listed, Object, age, object_of

UNEXPLAINED = ("301", "400", "403")
"""Refusals that may have many reasons."""
REPLACED = 5
"""Times that an object may be replaced while it is downloaded."""
READ = 1 << 20
PAGE = 1000
"""Objects that a LIST gives at once."""

T = TypeVar("T")

_CONNECTING = threading.Lock()


class Objects:
    """The objects of a store, by their names below its prefix. Threads may share it; it is pickled unconnected."""

    def __init__(self, address: Address, patience: Patience) -> None:
        self.address, self.patience = address, patience
        self._connection: Connection | None = None

    def __reduce__(self) -> Any:
        return Objects, (self.address, self.patience)

    def place(self, name: str) -> str:
        """The address of `name`, for people."""
        return f"{self.address.place}/{name}"

    def head(self, name: str) -> Object | None:
        """What is there under `name`; None where nothing is."""
        try:
            return object_of(self.call("head_object", name))
        except S3Error as error:
            if error.code in ABSENT:
                return None
            if error.code in UNEXPLAINED:  # as the answer to a HEAD has no body; that to a LIST has
                self.call("list_objects_v2", None, Prefix=self._key(name), MaxKeys=1)
            raise

    def get(self, name: str) -> tuple[bytes, Object] | None:
        """A small object; None where there is none."""
        return self._read(name, b"".join)

    def read_range(self, name: str, start: int, length: int, etag: str) -> bytes:
        """Bytes of a large object. Raises S3Error where its ETag is another by now."""
        asked = {"Range": f"bytes={start}-{start + length - 1}", "IfMatch": etag}
        with closing(self.call("get_object", name, **asked)["Body"]) as body:
            return b"".join(self._chunks(name, body, etag, start, start + length))

    def sha256(self, name: str) -> tuple[str, Object] | None:
        """The sha256 of an object of any size, as it is read now; None where there is none."""

        def digest(chunks: Iterable[bytes]) -> str:
            hashed = hashlib.sha256()
            for chunk in chunks:
                hashed.update(chunk)
            return hashed.hexdigest()

        return self._read(name, digest)

    def put(self, name: str, data: bytes, new: bool = False, instead_of: str = "", **options: Any) -> str:
        """Write a small object, checked by its sha256 on arrival; its ETag, empty where the condition does not hold.

        new: only where there is none; instead_of: only in place of the object of this ETag. Nothing may come for a
        write of our own whose answer was lost.
        """
        if new:
            options["IfNoneMatch"] = "*"
        if instead_of:
            options["IfMatch"] = instead_of
        try:
            etag: str = self.call("put_object", name, Body=data, ChecksumAlgorithm="SHA256", **options)["ETag"]
        except S3Error as error:
            if ((new or instead_of) and error.code in CHANGED) or (instead_of and error.code in ABSENT):
                return ""
            raise
        return etag

    def delete(self, name: str) -> None:
        """Drop an object, if there is one."""
        self.call("delete_object", name)

    def upload(self, path: Path, name: str, sha256: str = "") -> None:
        """Write a file, large ones in parallel parts; each part is checked by the server. Raises OSError for `path`."""
        options = self._kept(sha256) | {"ChecksumAlgorithm": "SHA256"}
        self._transferred(name, lambda manager, key: manager.upload(str(path), self.address.bucket, key, options))

    def refresh(self, name: str, sha256: str) -> None:
        """Write an object anew from itself, on the server, so that it is young."""
        options = self._kept(sha256) | {"MetadataDirective": "REPLACE"}
        source = {"Bucket": self.address.bucket, "Key": self._key(name)}
        self._transferred(name, lambda manager, key: manager.copy(source, self.address.bucket, key, options))

    def download(self, name: str, path: Path) -> bool:
        """Read an object into a file, in parallel ranges; false where there is none. Raises OSError for `path`."""
        from s3transfer.exceptions import S3DownloadFailedError, S3ValidationError

        last: Exception | None = None
        for _ in range(REPLACED):
            found = self.head(name)
            if found is None:
                return False
            if found.size == 0:  # of which there is no range to ask for
                path.write_bytes(b"")
                return True
            try:
                self._transferred(name, lambda manager, key: manager.download(self.address.bucket, key, str(path)))
                return True
            except (S3DownloadFailedError, S3ValidationError) as error:  # it was replaced meanwhile
                last = error
            except S3Error as error:
                if error.code not in ABSENT:
                    raise
        raise S3Error(f"{self.place(name)} changes again and again while it is read ({last}); run again")

    def give_up(self) -> None:
        """Cancel the transfers under way, and wait for their parts in flight; later ones have a connection anew."""
        with _CONNECTING:
            connection, self._connection = self._connection, None
        if connection is not None:
            # Its `shutdown(cancel=True)` raises TypeError (s3transfer 0.19); leaving it by an error does the same.
            with suppress(CancelledError), connection.transfers:
                raise CancelledError("given up")

    def names(self, prefix: str) -> Iterator[Listed]:
        """The objects whose names begin with `prefix`, in order."""
        for page in self.pages(prefix):
            yield from page

    def pages(self, prefix: str) -> Iterator[list[Listed]]:
        """The same, as a LIST gives them: PAGE at once."""
        options: dict[str, Any] = {}
        while True:
            answer = self.call("list_objects_v2", None, Prefix=self._key(prefix), **options)
            now, start = server_clock(answer), len(self._key(""))
            yield [
                Listed(found["Key"][start:], found["Size"], age(found["LastModified"], now))
                for found in answer.get("Contents", ())
            ]
            if not answer.get("IsTruncated"):
                return
            options = {"ContinuationToken": answer["NextContinuationToken"]}

    def folders(self, prefix: str) -> list[str]:
        """The names that stand between `prefix`, which ends with '/', and the next '/', sorted."""
        options: dict[str, Any] = {}
        found: list[str] = []
        while True:
            answer = self.call("list_objects_v2", None, Prefix=self._key(prefix), Delimiter="/", **options)
            found += [entry["Prefix"].rstrip("/").rpartition("/")[2] for entry in answer.get("CommonPrefixes", ())]
            if not answer.get("IsTruncated"):
                return sorted(found)
            options = {"ContinuationToken": answer["NextContinuationToken"]}

    def sizes(self, folder: str, names: Collection[str]) -> dict[str, int]:
        """The bytes of those of `names` that `folder` has: by LIST as long as that is quicker, then one by one."""
        wanted = sorted(set(names))
        found: dict[str, int] = {}
        reached, budget = "", len(wanted) // 100  # a LIST takes as long as some hundred HEADs, and costs ten
        if budget:
            for number, page in enumerate(self.pages(f"{folder}/"), 1):
                found |= {entry.name.removeprefix(f"{folder}/"): entry.size for entry in page}
                reached = page[-1].name.removeprefix(f"{folder}/") if page else reached
                if number == budget and len(page) == PAGE:
                    break
            else:
                wanted = []
        left = [name for name in wanted if name > reached]
        with ThreadPoolExecutor(THREADS) as pool:
            heads = pool.map(lambda name: self.head(f"{folder}/{name}"), left)
            found |= {name: head.size for name, head in zip(left, heads, strict=True) if head is not None}
        return {name: found[name] for name in names if name in found}

    def call(self, method: str, name: str | None, **options: Any) -> Any:
        """One request. Raises S3Error."""
        with self._errors(name):
            if name is not None:
                options["Key"] = self._key(name)
            return getattr(self._connected.client, method)(Bucket=self.address.bucket, **options)

    def _key(self, name: str) -> str:
        return self.address.key(name)

    def _kept(self, sha256: str) -> dict[str, Any]:
        """How an object is kept: what it holds, and in which class."""
        options: dict[str, Any] = {"Metadata": {"sha256": sha256}} if sha256 else {}
        return options | ({"StorageClass": self.address.storage_class} if self.address.storage_class else {})

    def _read(self, name: str, take: Callable[[Iterator[bytes]], T]) -> tuple[T, Object] | None:
        """What `take` makes of an object's bytes; begun anew where the object is replaced meanwhile."""
        while True:
            try:
                first = self.call("get_object", name)
                found = object_of(first)
                with closing(first["Body"]) as body:
                    return take(self._chunks(name, body, found.etag, 0, found.size)), found
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                if error.code not in CHANGED:
                    raise

    def _chunks(self, name: str, body: Any, etag: str, offset: int, end: int) -> Iterator[bytes]:
        """An object's bytes. A body that breaks off is gone on with where it broke off."""
        tries, failed_first = 0, 0.0
        while True:
            try:
                while chunk := body.read(READ):
                    offset, tries = offset + len(chunk), 0
                    yield chunk
                return
            except Exception as error:
                if not broke_off(error):
                    raise
                failed_first = failed_first if tries else time.monotonic()
                tries += 1
                if time.monotonic() > failed_first + self.patience.deadline:
                    raise self._explained(error, name) from None
                time.sleep(self.patience.pause(tries))
            if offset >= end:
                return
            body = self.call("get_object", name, Range=f"bytes={offset}-{end - 1}", IfMatch=etag)["Body"]

    def _transferred(self, name: str, submit: Callable[[Any, str], Any]) -> None:
        """Do a transfer to its end."""
        with self._errors(name):
            submit(self._connected.transfers, self._key(name)).result()

    @contextmanager
    def _errors(self, name: str | None) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError
        from s3transfer.exceptions import RetriesExceededError

        try:
            yield
        except RetriesExceededError as error:
            raise self._explained(error.last_exception, name) from None
        except (BotoCoreError, ClientError) as error:
            raise self._explained(error, name) from None
        except Exception as error:
            if not broke_off(error):
                raise
            raise self._explained(error, name) from None

    def _explained(self, error: Exception, name: str | None) -> S3Error:
        place = self.address.place if name is None else self.place(name)
        return explained(error, place, self.address.bucket, redaction(self._secrets))

    def _secrets(self) -> list[str]:
        credentials = self._connected.session.get_credentials()
        try:
            frozen = credentials.get_frozen_credentials()
        except Exception:  # noqa: BLE001 -- there are none, or none that can be had now: then none can show
            return []
        return [frozen.secret_key, frozen.token, frozen.access_key]

    @property
    def _connected(self) -> Connection:
        with _CONNECTING:
            if self._connection is None:
                self._connection = connect(self.address, self.patience)
            return self._connection
