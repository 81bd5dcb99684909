"""Machines whose clocks are off: by less than what S3 refuses, nothing may depend on them; by more, it is said."""

import subprocess
from datetime import timedelta
from pathlib import Path

import libfaketime
import pytest

from chaos.invariants import all_hold
from chaos.site import Site
from chaos.stores import commit, draft, key_of
from chaos.work import Journal, jobs, program, undisturbed, work, worker
from faults import INJECTED
from pipeline.store import LEASE_SECONDS
from pipeline.store.collect import Collected, collect

SMALL = (3, 3000)
LIBRARY = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"

LEASE = """
import sys
from pipeline.store import open_store
print(open_store(sys.argv[1]).acquire(sys.argv[2], sys.argv[3]))
"""


def clock(offset: str) -> dict[str, str]:
    """What a process runs with whose clock is off. Its waits are as long as they should be."""
    INJECTED[f"clock off by {offset}"] += 1
    return {"LD_PRELOAD": str(LIBRARY), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


def acquire(site: Site, owner: str, offset: str) -> float:
    """What a process with its clock off is told when it asks for a lease."""
    command, environment = program(["-c", LEASE, site.url, key_of(1), owner], **clock(offset))
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("offset", ["-10m", pytest.param("+10m", marks=pytest.mark.chaos)])
def test_work_with_a_clock_that_is_off(site: Site, tmp_path: Path, offset: str) -> None:
    journal, plan = Journal(tmp_path / "journal"), jobs(*SMALL)
    process = worker(site.url, journal.path, SMALL, **clock(offset))
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 0
    answers = work(site.direct, plan, journal)
    all_hold(site.direct, undisturbed(tmp_path, plan), answers, journal.write_ids())
    assert journal.computed_again() == []
    assert collect(site.direct, 60).blobs == 0


def test_a_clock_that_s3_refuses_is_said(site: Site) -> None:
    script = "import sys; from pipeline.store import open_store; open_store(sys.argv[1]).probe()"
    command, environment = program(["-c", script, site.url], **clock("+40m"))
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stderr
    assert "this machine's clock is 40 minutes ahead of the server's" in said.splitlines()[-1]


def test_a_lease_ends_by_the_server_s_clock(site: Site) -> None:
    assert acquire(site, "behind", "-10m") == 0
    assert LEASE_SECONDS - 20 < acquire(site, "ahead", "+10m") <= LEASE_SECONDS
    assert LEASE_SECONDS - 20 < site.direct.acquire(key_of(1), "right") <= LEASE_SECONDS
    assert acquire(site, "behind", "-10m") == 0


def test_a_server_whose_clock_is_off(site: Site) -> None:
    site.proxy.clock_offset = timedelta(hours=30)
    store = site.connect()
    assert store.acquire(key_of(1), "first") == 0
    assert LEASE_SECONDS - 20 < store.acquire(key_of(1), "second") <= LEASE_SECONDS
    store.append_run("first", "events.jsonl", "began\n")
    assert store.age_run("first", "events.jsonl") == pytest.approx(0, abs=60)
    kept = commit(store, draft(key_of(1)), {"a": b"a"})
    assert store.verify(kept) == []
    assert collect(store, 60) == Collected(0, 0, 0, 0, kept=1)
