"""A store in S3 behind a network and a server that fail: by chance at high rates, and at each request in turn."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chaos.invariants import all_hold, one_manifest_a_key, write_ids
from chaos.site import Site
from chaos.stores import commit, draft, key_of
from chaos.work import Job, Journal, jobs, undisturbed, work, work_together
from faults import CONFLICT, INJECTED, LOST_RESPONSE, TRANSIENT, Fault, at_rate, nth, on, once
from faulty_proxy import FaultyProxy
from pipeline.store import Manifest, Store, StoreError, open_store
from pipeline.store.s3 import S3Store
from pipeline.store.s3_address import parse
from pipeline.store.s3_client import HASTY
from s3_server import S3Server

OUTPUTS = {"poisons": b"\0\1\2" * 1000, "deep/ids": b"12345678", "empty": b""}
RATES = (0.1, 0.5, 0.9)


def held(site: Site, folder: Path, plan: list[Job], journal: Journal, answers: list[Manifest]) -> None:
    all_hold(site.direct, undisturbed(folder, plan), answers, journal.write_ids())
    assert journal.computed_again() == []


def disturbed(site: Site, folder: Path, plan: list[Job], rate: float) -> None:
    """Three workers do the same work while a share of all requests fail."""
    journal = Journal(folder / "journal")
    with site.proxy.failing(at_rate(rate)):
        answers = work_together(site.connect, plan, journal, seconds=400)
    assert site.proxy.injected.total() > 20 * rate
    held(site, folder, plan, journal, answers)


def test_work_while_half_of_all_requests_fail(site: Site, tmp_path: Path) -> None:
    disturbed(site, tmp_path, jobs(3, 3000), 0.5)


@pytest.mark.chaos
@pytest.mark.parametrize("rate", RATES)
def test_work_at_rates(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr("pipeline.store.s3_client.PART", 5 << 20)
    disturbed(site, tmp_path, jobs(2 if rate > 0.5 else 4, large=21 << 20), rate)
    assert any("uploadId" in request.target for request in site.proxy.requests)


def reads(store: Store, name: str, folder: Path) -> None:
    known, unknown = key_of("known"), key_of("unknown")
    found = store.read("brew", known)
    assert found is not None
    assert store.read("brew", unknown) is None
    assert store.missing(found) == []
    assert list(store.look([("brew", known), ("brew", unknown)])) == [(found, [])]
    assert store.find(known[:8]) == [("brew", known)]


def fetches(store: Store, name: str, folder: Path) -> None:
    found = store.read("brew", key_of("known"))
    assert found is not None
    store.fetch(found, folder / "fetched")
    assert {path.name: path.read_bytes() for path in (folder / "fetched").rglob("*") if path.is_file()} == {
        name.rpartition("/")[2]: data for name, data in OUTPUTS.items()
    }
    assert store.verify(found) == []


def commits(store: Store, name: str, folder: Path) -> None:
    wanted = draft(key_of(name))
    assert commit(store, wanted, OUTPUTS).write_id == wanted.write_id


def leases(store: Store, name: str, folder: Path) -> None:
    assert store.acquire(key_of(name), "first") == 0
    assert store.acquire(key_of(name), "first") == 0
    assert store.acquire(key_of(name), "second") > 0
    store.release(key_of(name), "first")
    assert store.acquire(key_of(name), "second") == 0


def logs(store: Store, name: str, folder: Path) -> None:
    for line in range(5):
        store.append_run(name, "events.jsonl", f"{line}\n")
    store.write_run(name, "summary.json", b"{}")
    assert store.read_run(name, "events.jsonl") == b"0\n1\n2\n3\n4\n"
    assert store.read_run(name, "summary.json") == b"{}"
    assert (store.age_run(name, "events.jsonl") or 0) < 60
    assert name in store.runs()


def scratches(store: Store, name: str, folder: Path) -> None:
    path = store.scratch(key_of(name)) / "checkpoint"
    path.write_bytes(b"step 100")
    store.push_scratch(key_of(name), "checkpoint")
    path.unlink()
    store.pull_scratch(key_of(name), "checkpoint")
    assert path.read_bytes() == b"step 100"
    store.clear_scratch(key_of(name))
    store.pull_scratch(key_of(name), "checkpoint")
    assert not path.exists()


OPERATIONS = {use.__name__: use for use in (reads, fetches, commits, leases, logs, scratches)}


@pytest.mark.parametrize("use", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize(
    "rate", [0.5, pytest.param(0.1, marks=pytest.mark.chaos), pytest.param(0.9, marks=pytest.mark.chaos)]
)
def test_each_operation_at_rates(
    site: Site, tmp_path: Path, rate: float, use: Callable[[Store, str, Path], None]
) -> None:
    commit(site.direct, draft(key_of("known")), OUTPUTS)
    store = site.connect()
    with site.proxy.failing(at_rate(rate)):
        for turn in range(2):
            use(store, f"turn-{turn}", tmp_path / str(turn))
    one_manifest_a_key(site.direct)


@pytest.mark.parametrize("fault", TRANSIENT, ids=str)
def test_the_manifest_s_write_fails(site: Site, fault: Fault) -> None:
    wanted = draft(key_of(1))
    site.proxy.choose = once(fault, on("PUT", "/steps/"))
    committed = commit(site.connect(), wanted, OUTPUTS)
    assert committed.write_id == wanted.write_id
    one_manifest_a_key(site.direct, [committed])
    assert site.proxy.injected == {fault: 1}


def test_the_answer_to_a_lost_race_is_lost(site: Site) -> None:
    first = commit(site.direct, draft(key_of(1)), OUTPUTS)
    site.proxy.choose = once(LOST_RESPONSE, on("PUT", "/steps/"))
    assert commit(site.connect(), draft(key_of(1)), {"other": b"other"}) == first
    one_manifest_a_key(site.direct, [first])


def test_a_race_that_is_decided_while_the_answer_is_on_its_way(site: Site) -> None:
    slow, quick = draft(key_of(1)), draft(key_of(1))
    stall = site.proxy.stall(on("PUT", "/steps/"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(commit, site.connect(), slow, {"slow": b"slow"})
        stall.wait()
        first = commit(site.direct, quick, OUTPUTS)
        stall.release()
        assert answer.result() == first
    one_manifest_a_key(site.direct, [first])


def requests_of_a_commit(site: Site) -> int:
    store = site.connect()
    before = len(site.proxy.requests)
    commit(store, draft(key_of("counted")), {"large": b"count", **OUTPUTS})
    return len(site.proxy.requests) - before


def fail_each_request(new_site: Callable[[], Site], fault: Fault, step: int) -> None:
    site = new_site()
    count = requests_of_a_commit(site)
    assert count >= 5
    for number in range(0, count, step):
        wanted = draft(key_of(number))
        site.proxy.choose = once(fault, nth(number))
        committed = commit(site.connect(), wanted, {"large": f"{number}".encode(), **OUTPUTS})
        assert committed.write_id == wanted.write_id
    one_manifest_a_key(site.direct)
    assert len(write_ids(site.direct)) == 1 + len(range(0, count, step))


def test_each_answer_of_a_commit_is_lost_in_turn(new_site: Callable[[], Site]) -> None:
    fail_each_request(new_site, LOST_RESPONSE, 1)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", TRANSIENT, ids=str)
def test_each_request_of_a_commit_fails_in_turn(new_site: Callable[[], Site], fault: Fault) -> None:
    fail_each_request(new_site, fault, 1)


def test_a_server_that_is_out_of_reach_for_a_while(site: Site, tmp_path: Path) -> None:
    plan, journal = jobs(3), Journal(tmp_path / "journal")
    large = site.proxy.stall(on("PUT", "/blobs/"))

    def outage() -> None:
        large.wait()
        site.proxy.cut_off()
        large.drop()
        time.sleep(2)
        site.proxy.restore()

    with ThreadPoolExecutor(1) as pool:
        interruption = pool.submit(outage)
        answers = work_together(site.connect, plan, journal, workers=2)
        interruption.result()
    held(site, tmp_path, plan, journal, answers)


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [1, 6])
def test_a_server_that_is_killed_in_the_middle_of_uploads(
    own_server: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kills: int
) -> None:
    for name, value in own_server.owner.environment.items():
        monkeypatch.setenv(name, value)
    with FaultyProxy(own_server.endpoint) as proxy:
        site, plan, journal = Site(proxy, own_server.endpoint), jobs(3 + kills), Journal(tmp_path / "journal")

        def kill() -> None:
            for _ in range(kills):
                sending = proxy.stall(on("PUT", "/blobs/"))
                sending.wait()
                sending.release()
                own_server.kill()
                INJECTED["server killed"] += 1
                own_server.start()

        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(kill)
            answers = work_together(site.connect, plan, journal, workers=2, seconds=300)
            killed.result()
        held(site, tmp_path, plan, journal, answers)


def test_a_store_that_stays_away_is_said_and_loses_nothing(site: Site, tmp_path: Path) -> None:
    plan, journal = jobs(2, 3000), Journal(tmp_path / "journal")
    answers = work(site.connect(), plan, journal)
    site.proxy.cut_off()
    with pytest.raises(StoreError, match="nothing that was committed is lost"):
        S3Store(parse(site.url), HASTY).read("brew", plan[0].key)
    site.proxy.restore()
    assert work(open_store(site.url), plan, journal) == answers
    held(site, tmp_path, plan, journal, [*answers])


@pytest.mark.parametrize("fault", [fault for fault in TRANSIENT if fault != CONFLICT], ids=str)
def test_an_empty_output_arrives_too(site: Site, tmp_path: Path, fault: Fault) -> None:
    found = commit(site.direct, draft(key_of(1)), {"empty": b""})
    site.proxy.choose = once(fault, lambda request: "/blobs/" in request.target)
    site.connect().fetch(found, tmp_path / "fetched")
    assert (tmp_path / "fetched" / "empty").read_bytes() == b""
    assert site.proxy.injected == {fault: 1}
