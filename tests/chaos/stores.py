"""The kinds of store that tests try, and what a runner does with one: the least that leaves a committed step.

A kind is one more class with `Folder`'s methods in KINDS: how to open a new store, and how to get at what it holds
behind its back, as a damaged disk or another program would.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.store import Manifest, Store, new_write_id, open_store


class Folder:
    tick = 0.25
    """Seconds between two changes that the store's clock surely tells apart."""

    def __init__(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        self.root = tmp_path / "store"
        self.store: Store = open_store(self.root)

    def names(self) -> set[str]:
        """Everything that is kept: blobs, manifests and runs."""
        paths = (path for kept in ("blobs", "steps", "runs") for path in (self.root / kept).rglob("*"))
        return {path.relative_to(self.root).as_posix() for path in paths if path.is_file()}

    def get(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Put other bytes in place of what is there, and leave all that is known of it."""
        (self.root / name).unlink()
        (self.root / name).write_bytes(data)


class Bucket:
    tick = 1.2

    def __init__(self, request: pytest.FixtureRequest, tmp_path: Path) -> None:
        request.getfixturevalue("s3_environment")
        server = request.getfixturevalue("s3_server")
        self.url: str = server.url()
        self.client = server.client()
        self.store: Store = open_store(self.url)
        parts = urlsplit(self.url)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")

    def names(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        found = (entry["Key"].removeprefix(f"{self.prefix}/") for page in pages for entry in page.get("Contents", ()))
        return {"/".join(name.split("/")[:3]) for name in found if name.startswith(("blobs/", "steps/", "runs/"))}

    def get(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()
        return data

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=data)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def replace(self, name: str, data: bytes) -> None:
        key = f"{self.prefix}/{name}"
        known = self.client.head_object(Bucket=self.bucket, Key=key)["Metadata"]
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, Metadata=known)


KINDS: dict[str, type[Folder] | type[Bucket]] = {"folder": Folder, "s3": Bucket}


def key_of(text: object) -> str:
    return sha256(str(text).encode()).hexdigest()


def draft(key: str, stage: str = "brew", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {"params": {"eps": 16}, "inputs": {"base": key_of("base")}, "write_id": new_write_id()}
    return Manifest(stage=stage, key=key, version=1, **fields | changes)


def commit(store: Store, manifest: Manifest, outputs: dict[str, bytes], again: bool = False) -> Manifest:
    """Do what the runner does: write the outputs in the attempt's scratch folder and commit them."""
    folder = store.scratch(manifest.key) / manifest.write_id
    folder.mkdir()
    for name, data in outputs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    committed = store.commit(folder, manifest, again)
    store.clear_scratch(manifest.key)
    return committed


def fetched(store: Store, manifest: Manifest, folder: Path) -> dict[str, bytes]:
    store.fetch(manifest, folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def blob_of(manifest: Manifest, name: str) -> str:
    return "blobs/" + next(blob.sha256 for blob in manifest.blobs if blob.name == name)
