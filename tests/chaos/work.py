"""A little pipeline to disturb: steps whose outputs are a pure function of their inputs, run as the runner runs them.

Run as a program (`worker`) it is a process that can be killed. The journal is a file that
outlives it: who looked for which step, computed it, and was told that it is committed.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.store import DamagedBlob, Manifest, Store, StoreError, new_write_id, open_store

STAGE = "brew"
LARGE = 9 << 20
"""Bytes of the output that is too large for one request."""
TRY_AGAIN_SECONDS = 0.05


@dataclass(frozen=True)
class Job:
    """A step. size: bytes of its large output."""

    number: int
    inputs: tuple["Job", ...]
    size: int

    @cached_property
    def key(self) -> str:
        """Of the number and the inputs, as a real one."""
        return sha256(f"{self.number} {self.size} {[job.key for job in self.inputs]}".encode()).hexdigest()

    def outputs(self, inputs: dict[str, bytes]) -> dict[str, bytes]:
        """What the step leaves: all depends on every byte of the inputs, and one file is the same in all steps."""
        seed = sha256(self.key.encode() + b"".join(data for _, data in sorted(inputs.items()))).digest()
        return {"large": seed * (self.size // len(seed)), "deep/er/own": seed, "shared": b"the same", "empty": b""}


def jobs(count: int = 6, large: int = LARGE) -> list[Job]:
    """The steps in order: each takes the two before it; the first has an output of `large` bytes."""
    made: list[Job] = []
    for number in range(count):
        made.append(Job(number, tuple(made[-2:]), large if number == 0 else 3000 * number))
    return made


class Journal:
    """A file of lines, one an event, in the order in which they happened, whichever process wrote them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, what: str, attempt: str, key: str, write_id: str = "") -> None:
        """Add an event: `looks`, `computes`, `committed`, or `removed` from the store on purpose."""
        line = json.dumps({"what": what, "attempt": attempt, "key": key, "write_id": write_id})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def lines(self) -> list[dict[str, str]]:
        """All events."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def write_ids(self) -> dict[tuple[str, str], str]:
        """What commits said last: (stage, key) -> write-id."""
        said = {(STAGE, line["key"]): line for line in self.lines() if line["what"] in ("committed", "removed")}
        return {ref: line["write_id"] for ref, line in said.items() if line["what"] == "committed"}

    def computed_again(self) -> list[str]:
        """The keys that somebody computed who looked only after somebody had been told that they are committed."""
        committed: dict[str, int] = {}
        looked: dict[str, int] = {}
        again = []
        for at, line in enumerate(self.lines()):
            if line["what"] == "committed":
                committed.setdefault(line["key"], at)
            elif line["what"] == "removed":
                committed.pop(line["key"], None)
            elif line["what"] == "looks":
                looked[line["attempt"]] = at
            elif looked[line["attempt"]] > committed.get(line["key"], looked[line["attempt"]]):
                again.append(line["key"])
        return again

    def computed(self) -> dict[str, int]:
        """How often each key was computed."""
        counts: dict[str, int] = defaultdict(int)
        for line in self.lines():
            counts[line["key"]] += line["what"] == "computes"
        return dict(counts)


def work(store: Store, plan: list[Job], journal: Journal, seconds: float = 120.0) -> list[Manifest]:
    """Do what is not done, as often as it takes; gives what each commit, or look, said. Raises TimeoutError."""
    end = time.monotonic() + seconds
    answers: list[Manifest] = []
    damaged: set[str] = set()
    for job in plan:
        while True:
            try:
                answers.append(_ensure(store, job, journal, damaged))
                break
            except (StoreError, FileNotFoundError) as error:  # who commits first clears the others' scratch
                if time.monotonic() > end:
                    raise TimeoutError(f"step {job.number} is not done after {seconds:g} s") from error
                time.sleep(TRY_AGAIN_SECONDS)
    return answers


def work_together(
    connect: Callable[[], Store], plan: list[Job], journal: Journal, workers: int = 3, seconds: float = 120.0
) -> list[Manifest]:
    """`work` by several at once, each with a store of its own; what all of them were given."""
    with ThreadPoolExecutor(workers) as pool:
        shares = [pool.submit(work, connect(), plan, journal, seconds) for _ in range(workers)]
        return [manifest for share in shares for manifest in share.result()]


def undisturbed(folder: Path, plan: list[Job]) -> Store:
    """A folder store in which all is done, and nothing ever went wrong."""
    store = open_store(folder / "undisturbed")
    work(store, plan, Journal(folder / "undisturbed.journal"))
    return store


def program(words: list[str], **environment: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a Python of its own that finds brewline and these tools."""
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    return [sys.executable, *words], {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}


def worker(url: str, journal: Path, jobs_of: tuple[int, int], **environment: str) -> "subprocess.Popen[str]":
    """Start a process that does the work of `jobs(*jobs_of)`."""
    command, variables = program(["-m", "chaos.work", url, str(journal), *map(str, jobs_of)], **environment)
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _ensure(store: Store, job: Job, journal: Journal, damaged: set[str]) -> Manifest:
    """A step's manifest: what is there, or what comes of running it, after the inputs that turn out damaged."""
    attempt = new_write_id()
    journal.write("looks", attempt, job.key)
    found = store.read(STAGE, job.key)
    if found is not None and not store.missing(found) and job.key not in damaged:
        return found
    inputs: dict[str, bytes] = {}
    with TemporaryDirectory() as temporary:
        for source in job.inputs:
            folder = Path(temporary, source.key)
            try:
                store.fetch(_ensure(store, source, journal, damaged), folder)
            except DamagedBlob:
                damaged.add(source.key)
                raise
            inputs |= {f"{source.key}/{path.name}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    journal.write("computes", attempt, job.key)
    out = store.scratch(job.key) / attempt
    for name, data in job.outputs(inputs).items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    draft = Manifest(
        stage=STAGE,
        key=job.key,
        version=1,
        params={"number": job.number},
        inputs={str(source.number): source.key for source in job.inputs},
        write_id=attempt,
        metrics={"bytes": sum(len(data) for data in inputs.values())},
        provenance={"host": os.uname().nodename, "seconds": time.monotonic()},
    )
    committed = store.commit(out, draft, again=job.key in damaged)
    damaged.discard(job.key)
    journal.write("committed", attempt, job.key, committed.write_id)
    store.clear_scratch(job.key)
    return committed


if __name__ == "__main__":
    work(open_store(sys.argv[1]), jobs(int(sys.argv[3]), int(sys.argv[4])), Journal(Path(sys.argv[2])))
