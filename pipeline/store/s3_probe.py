"""Whether an S3 store can do what a commit needs, tried out within seconds and before anything is computed.

Many endpoints speak S3 and ignore conditions on writes: on those, two attempts would overwrite each other in silence.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from pipeline.store.s3_address import Address
from pipeline.store.s3_client import HASTY
from pipeline.store.s3_errors import UNSUPPORTED, S3Error, clock_advice, clock_off
from pipeline.store.s3_objects import Objects
from stages.config import InputError

log = logging.getLogger(__name__)

REFUSED_SECONDS, WARNED_SECONDS = 15 * 60, 60
ELSEWHERE = "choose an endpoint that honours them: AWS S3, or a recent MinIO, Ceph or SeaweedFS"


def probe(address: Address) -> None:
    """Try each request that a store makes. Raises InputError that says what is missing and what to do."""
    objects, name = Objects(address, HASTY), f"probe/{uuid4().hex}"
    with _refusals():
        _check_clock(objects)
        try:
            _check_conditions(objects, name)
            _check_multipart(objects, name)
        finally:
            with suppress(S3Error):
                objects.delete(name)
        objects.delete(name)
        if objects.head(name) is not None:
            raise InputError(
                f"store {address.place}: an object that was deleted is still there; choose another endpoint"
            )


def reach(address: Address) -> None:
    """One request. Raises InputError that says what is wrong and what to do."""
    with _refusals():
        _check_clock(Objects(address, HASTY))


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise InputError(f"store {error}") from None


def _check_clock(objects: Objects) -> None:
    ahead = clock_off(objects.call("list_objects_v2", None, Prefix=f"{objects.address.prefix}/", MaxKeys=1))
    if abs(ahead) > REFUSED_SECONDS:
        raise InputError(f"store {objects.address.place}: {clock_advice(ahead)}")
    if abs(ahead) > WARNED_SECONDS:
        log.warning("store %s: %s", objects.address.place, clock_advice(ahead))


def _check_conditions(objects: Objects, name: str) -> None:
    place = objects.address.place
    try:
        created = objects.put(name, b"first", new=True), objects.put(name, b"second", new=True)
        first = objects.get(name)
        etag = first[1].etag if first else ""
        replaced = objects.put(name, b"third", instead_of=etag), objects.put(name, b"fourth", instead_of=etag)
        last = objects.get(name)
    except S3Error as error:
        if error.code not in UNSUPPORTED:
            raise
        raise InputError(
            f"store {place}: the endpoint refuses conditional writes ({error.code}); {ELSEWHERE}"
        ) from None
    for condition, (_, twice), found, expected in (
        ("If-None-Match", created, first, b"first"),
        ("If-Match", replaced, last, b"third"),
    ):
        # The first answer may be a no to our own write, where that to an earlier try got lost.
        if twice or found is None or found[0] != expected:
            raise InputError(
                f"store {place}: the endpoint ignores conditional writes ({condition}), and a commit needs them, or "
                f"two attempts would overwrite each other; {ELSEWHERE}"
            )


def _check_multipart(objects: Objects, name: str) -> None:
    """Large files go up in parts, checked by their sha256, in the storage class and with what they hold."""
    options = {"StorageClass": objects.address.storage_class} if objects.address.storage_class else {}
    begun = objects.call(
        "create_multipart_upload", name, ChecksumAlgorithm="SHA256", Metadata={"sha256": "probe"}, **options
    )
    upload = {"UploadId": begun["UploadId"]}
    try:
        part = objects.call("upload_part", name, PartNumber=1, Body=b"part", ChecksumAlgorithm="SHA256", **upload)
        parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part.get("ChecksumSHA256")}]
        objects.call(
            "complete_multipart_upload",
            name,
            MultipartUpload={"Parts": [{field: value for field, value in parts[0].items() if value is not None}]},
            **upload,
        )
    except BaseException:
        with suppress(S3Error):
            objects.call("abort_multipart_upload", name, **upload)
        raise
    found = objects.head(name)
    if found is None or (found.size, found.sha256) != (4, "probe"):
        raise InputError(
            f"store {objects.address.place}: a file uploaded in parts does not come back as it was, with its metadata; "
            "choose another endpoint"
        )
