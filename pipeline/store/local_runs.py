"""The files of runs in a folder store: an experiment as given, logs that grow."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from pipeline.store.files import explained, temporary_file, write_down
from pipeline.store.names import is_run, run_file, whole_lines


class Runs:
    """The part of a folder store that keeps runs."""

    _root: Path

    def runs(self) -> list[str]:
        """The names of all runs, sorted."""
        return sorted(path.name for path in (self._root / "runs").glob("*") if path.is_dir() and is_run(path.name))

    def run_files(self, run: str) -> list[str]:
        """The names of a run's files."""
        return sorted(path.name for path in (self._root / "runs" / run).glob("[!.]*"))

    def write_run(self, run: str, name: str, data: bytes) -> None:
        """Write a run's file."""
        path = self._root / run_file(run, name)
        try:
            with temporary_file(path.parent) as temporary:
                write_down(temporary, data)
                temporary.replace(path)
        except OSError as error:
            raise explained(error, self._root, path, len(data)) from error

    def read_run(self, run: str, name: str) -> bytes | None:
        """A run's file."""
        path = self._root / run_file(run, name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def append_run(self, run: str, name: str, lines: str) -> None:
        """One write to a file opened for appending."""
        path, data = self._root / run_file(run, name), whole_lines(lines)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if os.write(file, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(file)
        except OSError as error:
            raise explained(error, self._root, path, len(data)) from error

    def age_run(self, run: str, name: str) -> float | None:
        """By the file system's clock: that of a file made now. Who may only read has this machine's clock."""
        path = self._root / run_file(run, name)
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            return None
        now = time.time()
        with suppress(OSError), temporary_file(path.parent) as temporary:
            temporary.touch()
            now = temporary.stat().st_mtime
        return max(0.0, now - written)
