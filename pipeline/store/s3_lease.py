"""Leases in S3: an object that holds its owner's name and is as old, by the server's clock, as its last renewal."""

from uuid import uuid4

from pipeline.store.lease import is_dead
from pipeline.store.names import LEASE_SECONDS
from pipeline.store.s3_objects import Objects


def acquire(objects: Objects, name: str, owner: str) -> float:
    """Take or renew the lease `name`; 0, or the seconds that another has it for."""
    data = f"{owner}\n{uuid4().hex}".encode()  # no two writes are alike, so an ETag tells a renewal
    while not objects.put(name, data, new=True):
        found = objects.get(name)
        if found is None:
            continue  # given back since
        body, lease = found
        left = LEASE_SECONDS - lease.age
        if _owner(body) != owner and left > 0 and not is_dead(_owner(body)):
            return left
        if body == data or objects.put(name, data, instead_of=lease.etag):
            break
    return 0.0


def release(objects: Objects, name: str, owner: str) -> None:
    """Drop the lease; nothing happens where `owner` does not have it."""
    found = objects.get(name)
    if found is not None and _owner(found[0]) == owner:
        objects.delete(name)


def _owner(lease: bytes) -> str:
    return lease.decode(errors="replace").partition("\n")[0]
