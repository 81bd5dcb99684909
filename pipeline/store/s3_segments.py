"""Files that grow, in a store whose objects cannot: each process writes parts of its own, and readers join them.

runs/<run>/<name>/<when the process began>-<uuid>-<number>
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

from pipeline.store.s3_client import THREADS
from pipeline.store.s3_objects import Objects

SEGMENT = 256 << 10
"""Bytes from which on a process begins a new part: each call writes its last part anew."""


class Segments:
    """What this process has appended, by file."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._process = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{uuid4().hex}"
        self._last: dict[str, tuple[int, bytes]] = {}
        self._guard = threading.Lock()

    def append(self, file: str, data: bytes) -> None:
        """Add to a file; nothing is added where this fails."""
        with self._guard:
            number, written = self._last.get(file, (0, b""))
            if len(written) >= SEGMENT:
                number, written = number + 1, b""
            self._objects.put(f"{file}/{self._process}-{number:06d}", written + data)
            self._last[file] = number, written + data

    def read(self, file: str) -> bytes | None:
        """All parts, in the order in which their processes began; None where there is none."""
        names = [part.name for part in self._objects.names(f"{file}/")]
        with ThreadPoolExecutor(THREADS) as pool:
            return b"".join(found[0] for found in pool.map(self._objects.get, names) if found) if names else None

    def age(self, file: str) -> float | None:
        """Seconds since the last part was written; None where there is none."""
        return min((part.age for part in self._objects.names(f"{file}/")), default=None)
