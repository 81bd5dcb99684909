"""The files of runs in S3: an experiment as given, and logs that grow.

    runs/<run>/<name>                                                   a file that is written whole
    runs/<run>/<name>/<when the process began>-<uuid>-<number>          a part of one that grows

An object cannot grow: so each process writes parts of its own, and readers join them.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

from pipeline.store.names import run_file, whole_lines
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


class Runs:
    """The part of a store in S3 that keeps runs."""

    _objects: Objects
    _segments: Segments

    def runs(self) -> list[str]:
        """The names of all runs, sorted."""
        return self._objects.folders("runs/")

    def run_files(self, run: str) -> list[str]:
        """The names of a run's files, whether one object or appended parts."""
        start = f"runs/{run}/"
        return sorted({found.name.removeprefix(start).partition("/")[0] for found in self._objects.names(start)})

    def write_run(self, run: str, name: str, data: bytes) -> None:
        """Write a run's file."""
        self._objects.put(run_file(run, name), data)

    def read_run(self, run: str, name: str) -> bytes | None:
        """A run's file: one object, or what was appended."""
        file = run_file(run, name)
        found = self._objects.get(file)
        return found[0] if found else self._segments.read(file)

    def append_run(self, run: str, name: str, lines: str) -> None:
        """A write of this process's own part of the file."""
        self._segments.append(run_file(run, name), whole_lines(lines))

    def age_run(self, run: str, name: str) -> float | None:
        """By the server's clock."""
        file = run_file(run, name)
        found = self._objects.head(file)
        return found.age if found else self._segments.age(file)
