"""What S3 says of an object: bytes, age, ETag."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from pipeline.store.manifest import StoreError
from pipeline.store.s3_errors import server_clock


class Object(NamedTuple):
    """An object without its bytes. age: seconds since it was written, by the server's clock."""

    size: int
    etag: str
    age: float
    sha256: str
    """What its uploader said; empty where another program wrote it."""


class Listed(NamedTuple):
    """An object as a LIST gives it: its name below the store's prefix, bytes, seconds since it was written."""

    name: str
    size: int
    age: float


def object_of(answer: Any) -> Object:
    """The object that an answer of S3 is about."""
    said = answer.get("Metadata", {}).get("sha256", "")
    return Object(answer["ContentLength"], answer["ETag"], age(answer["LastModified"], server_clock(answer)), said)


def age(modified: datetime, now: datetime | None) -> float:
    """Seconds since `modified` at `now`, by the server's clock. Raises StoreError where it does not say."""
    if now is None:
        raise StoreError("the S3 endpoint answers without a Date; leases and ages need it")
    return max(0.0, (now - modified.astimezone(UTC)).total_seconds())
