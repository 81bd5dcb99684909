"""Leases in S3: an object that holds its owner's name and is as old, by the server's clock, as its last renewal."""

from uuid import uuid4

from pipeline.store.lease import is_dead
from pipeline.store.names import LEASE_SECONDS, whole_key
from pipeline.store.s3_objects import Objects


class Leases:
    """The part of a store in S3 that keeps leases."""

    _objects: Objects
    _held: dict[tuple[str, str], str]
    """The ETag of each lease that was taken here, by its object and its owner: a renewal is one request then."""

    def acquire(self, key: str, owner: str) -> float:
        """By the server's clock."""
        name = _lease(key)
        data = f"{owner}\n{uuid4().hex}".encode()  # no two writes are alike, so an ETag tells a renewal
        held = self._held.pop((name, owner), "")
        etag = self._objects.put(name, data, instead_of=held) if held else ""
        while not etag and not (etag := self._objects.put(name, data, new=True)):
            found = self._objects.get(name)
            if found is None:
                continue  # given back since
            body, lease = found
            left = LEASE_SECONDS - lease.age
            if _owner(body) != owner and left > 0 and not is_dead(_owner(body)):
                return left
            etag = lease.etag if body == data else self._objects.put(name, data, instead_of=lease.etag)
        self._held[name, owner] = etag
        return 0.0

    def release(self, key: str, owner: str) -> None:
        """Drop the object."""
        self._held.pop((_lease(key), owner), None)
        found = self._objects.get(_lease(key))
        if found is not None and _owner(found[0]) == owner:
            self._objects.delete(_lease(key))


def _lease(key: str) -> str:
    return f"leases/{whole_key(key)}"


def _owner(lease: bytes) -> str:
    return lease.decode(errors="replace").partition("\n")[0]
