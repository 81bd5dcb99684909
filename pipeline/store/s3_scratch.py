"""Scratch of a store in S3: folders on a node's own disk, of whose files some are brought to the bucket and back."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from pipeline.store.manifest import StoreError
from pipeline.store.names import whole_key
from pipeline.store.node_cache import NodeCache
from pipeline.store.node_scratch import NodeScratch
from pipeline.store.s3_errors import S3Error
from pipeline.store.s3_objects import Objects

log = logging.getLogger(__name__)


class Scratch:
    """The part of a store in S3 that keeps what steps that are not done need."""

    url: str
    _objects: Objects

    def scratch(self, key: str) -> Path:
        """A folder on this node's disk."""
        try:
            return self._scratch.folder(key)
        except OSError as error:
            raise self._cache.explained(error, self._cache.root, 0) from error

    def push_scratch(self, key: str, name: str) -> str:
        """Upload the file as it is now, though a newer one takes its place meanwhile."""
        path = self.scratch(key) / name
        snapshot = path.with_name(f".{uuid4().hex}.pushed")
        try:
            os.link(path, snapshot)
            self._objects.upload(snapshot, f"scratch/{key}/{name}")
        except OSError as error:
            raise StoreError(f"{path} could not be brought to {self.url}: {error}") from error
        finally:
            snapshot.unlink(missing_ok=True)
        return self._objects.place(f"scratch/{key}/{name}")

    def pull_scratch(self, key: str, name: str, better: Callable[[Path], bool] = lambda _: True) -> None:
        """Download it beside, then in its place."""
        path = self.scratch(key) / name
        part = path.with_name(f".{uuid4().hex}.pulled")
        try:
            if self._objects.download(f"scratch/{key}/{name}", part) and better(part):
                part.replace(path)
        except OSError as error:
            raise self._cache.explained(error, path, 0) from error
        finally:
            part.unlink(missing_ok=True)

    def clear_scratch(self, key: str) -> None:
        """The folder on this node, and what was pushed: where that cannot be asked for, `cache gc` does it later."""
        self._scratch.clear(key)
        try:
            for pushed in list(self._objects.names(f"scratch/{whole_key(key)}/")):
                self._objects.delete(pushed.name)
        except S3Error as error:
            log.warning("scratch of a step that is done stays until the next `brewline cache gc`: %s", error)

    @property
    def _cache(self) -> NodeCache:
        return NodeCache.of_node()

    @property
    def _scratch(self) -> NodeScratch:
        """Apart from those of other stores: their attempts at the same step end at other times."""
        return NodeScratch(self._cache.root / "scratch" / hashlib.sha256(self.url.encode()).hexdigest()[:16])
