import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from chaos.stores import Folder, blob_of, commit, draft, key_of
from pipeline.cli_store import cache
from pipeline.store import Manifest, Store, StoreError, open_store
from pipeline.store.collect import Collected, collect
from pipeline.store.files import locked
from pipeline.store.local import LocalStore
from pipeline.store.s3_objects import Objects
from stages.config import InputError


def unnamed_blob(store: Store, data: bytes = b"orphan") -> str:
    """Leave a blob that no manifest names; its sha256."""
    orphan = commit(store, draft(key_of("orphan")), {"orphan": data})
    store.remove(orphan.stage, orphan.key)
    return orphan.blobs[0].sha256


def stored(store: Store) -> set[str]:
    return {sha256 for sha256, _, _ in store.blobs()}


def test_what_no_step_names_goes_and_the_rest_stays(kind: Folder) -> None:
    store = kind.store
    first = commit(store, draft(key_of(1)), {"shared": b"shared", "own": b"own 1"})
    second = commit(store, draft(key_of(2)), {"shared": b"shared", "own": b"own 22"})
    store.remove("brew", first.key)
    before = kind.names()
    foretold = collect(store, 0, dry=True)
    assert kind.names() == before
    assert collect(store, 0) == foretold == Collected(1, len(b"own 1"), 0, 0, kept=2)
    assert kind.names() == before - {blob_of(first, "own")}
    assert store.verify(second) == []
    assert collect(store, 0) == Collected(0, 0, 0, 0, kept=2)


def test_what_is_young_stays(kind: Folder) -> None:
    orphan = unnamed_blob(kind.store)
    assert collect(kind.store, 60) == Collected(0, 0, 0, 0, kept=1)
    assert not kind.store.remove_blob(orphan, 60)
    assert stored(kind.store) == {orphan}


def test_an_unreadable_manifest_stops_it_before_anything_goes(kind: Folder) -> None:
    unnamed_blob(kind.store)
    kind.put(f"steps/brew/{key_of(1)}.json", b'{"schema_version": 99}')
    before = kind.names()
    with pytest.raises(StoreError, match="Nothing was deleted"):
        collect(kind.store, 0)
    assert kind.names() == before


def upload(store: Store, folder: Path, grace: float) -> Manifest:
    """A commit of what is already there as a blob, as a step that runs once more makes it."""
    return commit(store, draft(key_of("late")), {"orphan": b"orphan"})


def hand_on(store: Store, folder: Path, grace: float) -> Manifest:
    """A commit of an input that is handed on, and whose own step is then taken out."""
    source = commit(store, draft(key_of("source")), {"orphan": b"orphan"})
    store.fetch(source, folder)
    time.sleep(grace)
    store.remove(source.stage, source.key)
    return store.commit(folder, draft(key_of("late")))


def settle(store: Store, folder: Path, grace: float) -> Manifest:
    """A copy from another store, whose blobs were there."""
    source = commit(store, draft(key_of("source")), {"orphan": b"orphan"})
    store.remove(source.stage, source.key)
    time.sleep(grace)
    return store.settle(draft(key_of("late"), blobs=source.blobs))


class Interleaved:
    """A real store in which something happens after a phase of `collect`."""

    def __init__(self, store: Store, after: str, then: Callable[[], object]) -> None:
        self._store, self._after, self._then = store, after, then

    def __getattr__(self, name: str) -> object:
        if name != self._after:
            return getattr(self._store, name)

        def phase() -> Iterator[object]:
            yield from getattr(self._store, name)()
            self._then()

        return phase


@pytest.mark.parametrize("commits", [upload, hand_on, settle])
@pytest.mark.parametrize("after", ["blobs", "manifests"])
def test_a_commit_in_between_keeps_the_old_blobs_it_finds(
    kind: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    commits: Callable[[Store, Path, float], Manifest],
) -> None:
    # a store in S3 leaves what is young by days as it is
    monkeypatch.setattr("pipeline.store.s3_upkeep.GRACE_SECONDS", 0.0)
    grace = 3 * kind.tick
    unnamed_blob(kind.store)
    time.sleep(grace)
    late: list[Manifest] = []
    store = Interleaved(kind.store, after, lambda: late.append(commits(kind.store, tmp_path / "outputs", grace)))
    assert collect(store, grace).blobs == 0  # type: ignore[arg-type]
    assert kind.store.verify(late[0]) == []


def test_a_blob_that_is_refreshed_as_it_is_to_go_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    orphan = unnamed_blob(store)
    time.sleep(0.5)
    answers: list[bool] = []
    remove = threading.Thread(target=lambda: answers.append(store.remove_blob(orphan, 0.4)))
    with locked(tmp_path / "repair.lock"):
        remove.start()
        remove.join(0.3)
        assert remove.is_alive()
        (tmp_path / "blobs" / orphan).chmod(0o444)  # what a commit does under the same lock makes it young too
    remove.join(60)
    assert answers == [False]


def test_commits_and_removals_race_with_it(tmp_path: Path) -> None:
    store, ends, removed = LocalStore(tmp_path), time.monotonic() + 4, 0
    damaged: list[str] = []

    def work(worker: int) -> None:
        turn = 0
        while time.monotonic() < ends:
            turn += 1
            key = key_of(f"{worker} {turn}")
            committed = commit(store, draft(key), {str(n): f"{n}".encode() for n in range(worker, worker + 3)})
            damaged.extend(store.verify(committed))
            store.remove("brew", key)
            time.sleep(0.01 * (turn % 40))

    workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        removed += collect(store, 0.2).blobs
    assert damaged == []
    assert removed > 0


def test_what_crashes_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.local_upkeep.LEASE_SECONDS", 3.0)
    store = LocalStore(tmp_path)
    commit(store, draft(key_of(1)), {"a": b"a"})
    late = store.scratch(key_of(1)) / "attempt" / "out"
    late.mkdir(parents=True)
    (late / "images").write_bytes(b"1234")
    waiting = store.scratch(key_of(2)) / "checkpoint"
    waiting.write_bytes(b"step 100")
    cleared, cut = tmp_path / "scratch" / f".{'0' * 32}.cleared", tmp_path / "blobs" / f".{'0' * 32}.tmp"
    cleared.mkdir()
    cut.write_bytes(b"123")
    store.acquire(key_of(2), "dead")
    assert collect(store, 60).leftovers == 0
    time.sleep(3.1)
    store.acquire(key_of(3), "alive")
    foretold = collect(store, 3, dry=True)
    assert late.exists()
    assert (foretold.leftovers, foretold.leftover_bytes) == (4, 4 + 3 + len("dead"))
    assert collect(store, 3) == foretold
    assert not late.exists() and not cleared.exists() and not cut.exists()
    assert waiting.read_bytes() == b"step 100"
    assert [path.name for path in (tmp_path / "leases").iterdir()] == [key_of(3)]
    (waiting.parent / "checkpoint").write_bytes(b"step 200")
    commit(store, draft(key_of(2)), {})
    assert collect(store, 0).leftovers == 0


def test_what_crashes_left_in_s3_goes(s3_server: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.s3_upkeep.LEASE_SECONDS", 1.0)
    store, parts, client = open_store(s3_url), urlsplit(s3_url), s3_server.client()
    target = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/blobs/{key_of(1)}"}
    for number in (1, 2):
        (store.scratch(key_of(number)) / "checkpoint").write_bytes(b"step 100")
    commit(store, draft(key_of(1)), {"a": b"a"})
    for number in (1, 2):
        (store.scratch(key_of(number)) / "checkpoint").write_bytes(b"step 100")
        store.push_scratch(key_of(number), "checkpoint")
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    store.acquire(key_of(2), "dead")
    assert collect(store, 60).leftovers == 0
    time.sleep(3)
    client.upload_part(**target, PartNumber=1, Body=b"x" * 100)
    assert [name.partition("?")[0] for name, _ in store.sweep(2, {key_of(1)}, True)] == [
        f"scratch/{key_of(1)}",
        f"leases/{key_of(2)}",
    ]
    foretold = collect(store, 0, dry=True)
    assert (foretold.leftovers, foretold.leftover_bytes) == (3, len(b"step 100") + 100 + len("dead") + 33)
    client.list_parts(**target)
    assert collect(store, 0).leftovers == 3
    with pytest.raises(client.exceptions.ClientError, match="NoSuchUpload"):
        client.list_parts(**target)
    monkeypatch.setattr("pipeline.store.s3_upkeep.LEASE_SECONDS", 60.0)
    assert store.acquire(key_of(2), "other") == 0
    store.pull_scratch(key_of(2), "checkpoint")
    assert collect(store, 0).leftovers == 0


def test_an_upload_that_goes_on_stays_and_one_that_ends_meanwhile_is_no_error(
    s3_server: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, parts, client = open_store(s3_url), urlsplit(s3_url), s3_server.client()
    target = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/blobs/{key_of(1)}"}
    target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
    client.upload_part(**target, PartNumber=1, Body=b"x" * 100)
    time.sleep(3)
    client.upload_part(**target, PartNumber=2, Body=b"y" * 100)
    call, one_at_a_time = Objects.call, {"list_parts": {"MaxParts": 1}}

    def paged(self: Objects, method: str, name: str | None, **options: Any) -> Any:
        return call(self, method, name, **options, **one_at_a_time.get(method, {}))

    monkeypatch.setattr(Objects, "call", paged)
    assert list(store.sweep(2, set(), True)) == []
    assert [size for _, size in store.sweep(0, set(), True)] == [200]

    def ended(self: Objects, method: str, name: str | None, **options: Any) -> Any:
        if method == "list_parts":
            client.abort_multipart_upload(**target)
        return call(self, method, name, **options)

    monkeypatch.setattr(Objects, "call", ended)
    assert list(store.sweep(0, set(), False)) == []


def test_what_others_put_into_the_bucket_is_left_alone(s3_server: Any, s3_url: str) -> None:
    store, parts, client = open_store(s3_url), urlsplit(s3_url), s3_server.client()
    mine = commit(store, draft(key_of(1)), {"a": b"a"})
    names = {f"{parts.path.strip('/')}/{name}" for name in ("blobs/README", "steps/brew/notes.json", "steps/brew/")}
    for name in names:
        client.put_object(Bucket=parts.netloc, Key=name, Body=b"")
    assert collect(store, 0) == Collected(0, 0, 0, 0, kept=1)
    assert (list(store.manifests()), store.keys("brew")) == ([mine], {mine.key})
    for name in names:
        client.head_object(Bucket=parts.netloc, Key=name)


def test_a_scratch_folder_in_use_stays(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, draft(key_of(1)), {"a": b"a"})
    log = store.scratch(key_of(1)) / "attempt" / "log.txt"
    log.parent.mkdir()
    log.write_text("a repair runs\n")
    time.sleep(0.5)
    with log.open("a") as file:
        file.write("and goes on\n")
    assert collect(store, 0.4).leftovers == 0
    assert log.exists()


def test_the_command(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    orphan = unnamed_blob(store, b"\0" * 2_000_000)

    def gc(*words: str) -> str:
        return CliRunner().invoke(cache, ["gc", "--store", str(tmp_path), *words], catch_exceptions=False).output

    assert "removed 0 outputs that no step names (0.000 GB)" in gc()
    assert "would remove 1 outputs that no step names (0.002 GB)" in gc("--grace", "0s", "--dry-run")
    assert stored(store) == {orphan}
    assert "removed 1 outputs that no step names (0.002 GB) and 0 leftovers" in gc("--grace", "0s")
    assert stored(store) == set()
    with pytest.raises(InputError, match="--grace 7 days: expected a number and s, m, h or d"):
        gc("--grace", "7 days")


def test_it_waits_for_all_who_work_on_a_run(kind: Folder) -> None:
    def gc(grace: str) -> str:
        words = ["gc", "--store", kind.store.url, "--grace", grace]
        return CliRunner().invoke(cache, words, catch_exceptions=False).output

    def event(of: Store, driver: str, what: str) -> None:
        facts = {"time": datetime.now(UTC).isoformat(), "driver": driver, "what": "run", "event": what}
        of.append_run("first", "events.jsonl", json.dumps(facts) + "\n")

    other = open_store(kind.store.url)
    event(kind.store, "one", "began")
    event(other, "two", "began")
    event(other, "two", "interrupted")
    with pytest.raises(InputError, match="--grace 6d: run first goes on"):
        gc("6d")
    assert "removed 0" in gc("7d")
    event(kind.store, "one", "ended")
    assert "removed 0" in gc("6d")
