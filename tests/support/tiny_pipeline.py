"""A tiny experiment on digits, the real command, and one Ray for the tests of the pipeline."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.connect import connected
from pipeline.experiment_file import parse
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.resources import Machine
from shared_work import Once

COMMAND = Path(sys.executable).with_name("brewline")
TINY: dict[str, Any] = {
    "name": "tiny",
    "dataset": {"kind": "digits", "per_class": 30, "test_per_class": 10},
    "cases": {"kind": "random", "count": 1},
    "network": {"name": "convnet", "depth": 3, "width": 4},
    "training": {"epochs": 2, "learning_rate": 0.02, "augmentation": {"flip": False, "pad": 1}},
    "surrogates": {"count": 1},
    "attack": {"eps": 32, "budget": 0.05, "restarts": 2, "steps": 3, "augmentation": {"flip": False, "shift": 1}},
    "victims": {"count": 1},
    "runtime": {"device": "cpu"},
}

Brewline = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
Planner = Callable[[Mapping[str, Any]], Plan]


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The fields of an experiment of 10 steps, each a fraction of a second long."""
    return copy.deepcopy(TINY)


@pytest.fixture(scope="session")
def plan_tiny() -> Planner:
    """Makes the plan of the tiny experiment, with {field.path: value} set."""

    def make(changes: Mapping[str, Any]) -> Plan:
        data = copy.deepcopy(TINY)
        for path, value in changes.items():
            *parents, last = path.split(".")
            place = data
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = value
        return plan_of({"": parse(data, "tiny")})

    return make


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What the command runs with: nothing of this machine's brewline or Ray settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BREWLINE_", "RAY_"))}
    return inherited | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def brewline(environment: dict[str, str]) -> Brewline:
    """Runs the real command to its end."""

    def command(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        words = [str(COMMAND), *map(str, args)]
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            env=environment | env,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )

    return command


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Starts the command in a process group of its own, as a shell does; what is left of it is killed."""
    started: list[subprocess.Popen[str]] = []

    def command(*args: object) -> subprocess.Popen[str]:
        words = [str(COMMAND), *map(str, args)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(words, text=True, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield command
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment as a file; never write to it."""
    file = tmp_path_factory.mktemp("experiment") / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY, sort_keys=False))
    return file


@dataclass(frozen=True)
class Finished:
    """A run of the tiny experiment to its end. Never write into its store: copy it."""

    store: Path
    stdout: str
    stderr: str
    result: dict[str, Any]
    folder: Path


@pytest.fixture(scope="session")
def finished(once: Once, tiny_file: Path, brewline: Brewline) -> Finished:
    """The tiny experiment, run by the command."""

    def make(folder: Path) -> list[Any]:
        store = folder / "store"
        done = brewline("run", tiny_file, "--store", store, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return [str(store), done.stdout, done.stderr, json.loads(done.stdout.splitlines()[-1])]

    store, stdout, stderr, result = once("finished", make)
    return Finished(Path(store), stdout, stderr, result, Path(store, "runs", result["run"]))


@pytest.fixture
def no_ray(tmp_path: Path) -> dict[str, str]:
    """An environment in which importing Ray fails."""
    folder = tmp_path / "no-ray" / "ray"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('this command must not need Ray')\n")
    return {"PYTHONPATH": str(folder.parent)}


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The store of the finished run, to be harmed."""
    return Path(shutil.copytree(finished.store, tmp_path / "store"))


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    """The command ended with exit code 2 and said these things, without a traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for text in told:
        assert text in done.stderr + done.stdout


@pytest.fixture(scope="session")
def machines() -> Iterator[list[Machine]]:
    """One local Ray for all tests that need one in this process."""
    with connected(None) as found:
        yield found


@pytest.fixture(scope="session")
def write_ids() -> Callable[[Path], dict[str, str]]:
    """The attempt that committed each step in a store, by the manifest's name."""

    def of(store: Path) -> dict[str, str]:
        files = store.glob("steps/*/[0-9a-f]*.json")
        return {file.relative_to(store).as_posix(): json.loads(file.read_text())["write_id"] for file in files}

    return of


class Processes:
    """A look at this machine's processes, through /proc; zombies do not count."""

    def below(self, pid: int) -> dict[int, str]:
        """The descendants of a process: process id -> command line."""
        parents = {int(folder.name): _parent(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
        found: set[int] = set()
        level = {pid}
        while level := {child for child, parent in parents.items() if parent in level}:
            found |= level
        return {child: _command(child) for child in found}

    def alive(self, pids: Collection[int]) -> dict[int, str]:
        """Those of the processes that still run."""
        return {pid: _command(pid) for pid in pids if _parent(pid) is not None}

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait for a condition; the test fails where it does not come true."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"after {seconds:g} s {what}")
            time.sleep(0.05)

    def until_gone(self, pids: Collection[int], seconds: float, what: str) -> None:
        """Wait until none of the processes runs; the test fails with those that still do."""
        end = time.monotonic() + seconds
        while left := self.alive(pids):
            if time.monotonic() > end:
                pytest.fail(f"after {seconds:g} s {what}: {left}")
            time.sleep(0.05)


def _parent(pid: int) -> int | None:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else int(parent)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture(scope="session")
def processes() -> Processes:
    """A look at this machine's processes."""
    return Processes()
