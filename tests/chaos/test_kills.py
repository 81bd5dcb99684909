"""Processes that die: at a request of a test's choice, at every request in turn, and at any moment."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.invariants import all_hold, one_manifest_a_key, write_ids
from chaos.site import Site
from chaos.work import Journal, jobs, undisturbed, work, worker
from faults import INJECTED, Where, nth, on
from pipeline.store import open_store
from pipeline.store.collect import collect

SMALL = (3, 3000)

POINTS = {
    "before the blobs": (on("PUT", "blobs/"), False),
    "between blobs and manifest": (on("PUT", "steps/"), False),
    "after the manifest": (on("PUT", "steps/"), True),
}


def die(site: Site, journal: Path, where: Where, carried_out: bool) -> bool:
    """Run a worker until it asks for `where`, and kill it there; False if it ended without."""
    process = worker(site.url, journal, SMALL)
    stall = site.proxy.stall(where, carried_out)
    while not stall.reached.wait(0.05) and process.poll() is None:
        pass
    process.kill()
    process.wait()
    stall.drop()
    INJECTED["process killed"] += stall.reached.is_set()
    return stall.reached.is_set()


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_dies_in_a_commit(site: Site, tmp_path: Path, point: str) -> None:
    journal, plan = Journal(tmp_path / "journal"), jobs(*SMALL)
    assert die(site, journal.path, *POINTS[point])
    before = write_ids(site.direct)
    assert len(before) == (point == "after the manifest")
    one_manifest_a_key(site.direct)
    answers = work(site.direct, plan, journal)
    all_hold(site.direct, undisturbed(tmp_path, plan), answers, before)
    assert journal.computed()[plan[0].key] == (1 if before else 2)


@pytest.mark.chaos
def test_a_process_that_dies_at_each_request_in_turn(new_site: Callable[[], Site], tmp_path: Path) -> None:
    plan, expected = jobs(*SMALL), undisturbed(tmp_path, jobs(*SMALL))
    number, died = 0, True
    while died:
        site, journal = new_site(), Journal(tmp_path / f"journal {number}")
        died = die(site, journal.path, nth(number), carried_out=number % 2 == 1)
        before = write_ids(site.direct)
        answers = work(site.direct, plan, journal)
        all_hold(site.direct, expected, answers, {**before, **journal.write_ids()})
        number += 1
    assert number > 10


def test_processes_that_die_on_a_folder_at_any_moment(tmp_path: Path) -> None:
    rounds(tmp_path, kills=6)


@pytest.mark.chaos
def test_many_processes_that_die_on_a_folder_at_any_moment(tmp_path: Path) -> None:
    rounds(tmp_path, kills=60)


def rounds(tmp_path: Path, kills: int) -> None:
    """Kill workers on one folder after a random while, three at a time; then let one finish, and collect the rest."""
    dice, journal, plan = random.Random(kills), Journal(tmp_path / "journal"), jobs()
    store, killed = open_store(tmp_path / "chaos"), 0
    while killed < kills:
        started = [worker(store.url, journal.path, (len(plan), plan[0].size)) for _ in range(3)]
        known, end = len(journal.lines()), time.monotonic() + 60
        while len(journal.lines()) == known and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.2))
        for process in started:
            killed += process.poll() is None
            process.kill()
            process.wait()
        one_manifest_a_key(store)
        if len(write_ids(store)) == len(plan):
            dead = dice.choice(plan)  # so that there is something to do again
            store.remove("brew", dead.key)
            journal.write("removed", "", dead.key)
    INJECTED["process killed"] += killed
    before = write_ids(store)
    answers = work(store, plan, journal)
    expected = undisturbed(tmp_path, plan)
    all_hold(store, expected, answers, before)
    assert journal.computed_again() == []
    collect(store, 0)
    all_hold(store, expected, answers, before)
    assert sum(1 for _ in store.blobs()) == sum(1 for _ in expected.blobs())
    assert list((tmp_path / "chaos").rglob("*.tmp")) == []
