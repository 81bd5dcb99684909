import itertools
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from chaos.stores import KINDS, Folder, blob_of, commit, draft, fetched, key_of
from faults import Request, nothing
from faulty_proxy import FaultyProxy
from pipeline.cli_store import cache
from pipeline.store import Blob, Manifest, StoreError, open_store, s3_client
from pipeline.store.copying import compare, copy_run, transfer
from pipeline.store.local import LocalStore
from s3_server import BUCKET, S3Server
from stages.config import InputError

OUTPUTS = [{"base": b"shared" * 1000, "own": f"step {step}".encode(), "empty": b""} for step in range(5)]
REFS = [("brew", key_of(step)) for step in range(6)]

Pair = tuple[Folder, Folder]


@pytest.fixture(params=itertools.product(KINDS, KINDS), ids="-".join)
def pair(request: pytest.FixtureRequest, new_kind: Callable[[str, str], Folder]) -> Pair:
    """A store with five of the six steps of a run, and an empty one, of each pair of kinds."""
    source, target = (new_kind(name, end) for name, end in zip(request.param, ("source", "target"), strict=True))
    for (stage, key), outputs in zip(REFS, OUTPUTS, strict=False):
        commit(source.store, draft(key, stage, metrics={"B": 0.1}, provenance={"host": "δ"}), outputs)
    source.store.write_run("first", "plan.json", json.dumps([{"stage": s, "key": k} for s, k in REFS]).encode())
    source.store.append_run("first", "events.jsonl", '{"event": "began"}\n')
    source.store.append_run("first", "events.jsonl", '{"event": "ended"}\n')
    return source, target


def copied(source: Folder, target: Folder) -> list[int]:
    """Copy all; the bytes of each blob that was brought."""
    sizes: list[int] = []
    transfer(source.store, target.store, compare(source.store, target.store, REFS), sizes.append)
    return sizes


def kept(kind: Folder, folder: str) -> dict[str, bytes]:
    return {name: kind.get(name) for name in kind.names() if name.startswith(folder)}


def test_a_copy_is_a_store_in_its_own_right(pair: Pair, tmp_path: Path) -> None:
    source, target = pair
    what = compare(source.store, target.store, REFS)
    assert (len(what.steps), len(what.blobs), what.size, what.there, what.absent) == (5, 7, 6000 + 5 * 6, 0, 1)
    assert sorted(copied(source, target)) == [0, *[6] * 5, 6000]
    assert copy_run(source.store, target.store, "first") == 2
    assert kept(target, "steps/") == kept(source, "steps/")
    assert kept(target, "blobs/") == kept(source, "blobs/")
    assert target.store.runs() == ["first"]
    for name in source.store.run_files("first"):
        assert target.store.read_run("first", name) == source.store.read_run("first", name)
    for name in source.names():
        source.delete(name)
    for number, manifest in enumerate(
        sorted(target.store.manifests(), key=lambda found: REFS.index(("brew", found.key)))
    ):
        assert fetched(target.store, manifest, tmp_path / str(number)) == OUTPUTS[number]
    target.store.append_run("first", "events.jsonl", '{"event": "again"}\n')
    assert (target.store.read_run("first", "events.jsonl") or b"").count(b"\n") == 3


def test_it_goes_on_where_it_was_interrupted(pair: Pair) -> None:
    source, target = pair
    brought: list[int] = []

    def interrupt(size: int) -> None:
        brought.append(size)
        if len(brought) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(source.store, target.store, compare(source.store, target.store, REFS), interrupt)
    for manifest in target.store.manifests():
        assert target.store.verify(manifest) == []
    arrived = {name for name in target.names() if name.startswith("blobs/")}
    left = compare(source.store, target.store, REFS)
    assert {f"blobs/{digest}" for digest in left.blobs} == set(kept(source, "blobs/")) - arrived
    assert len(arrived) >= 3
    assert len(copied(source, target)) == 7 - len(arrived)
    assert kept(target, "steps/") == kept(source, "steps/")
    assert copied(source, target) == []


def test_who_is_interrupted_does_not_wait_for_large_files(
    s3_url: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "PART", 5 << 20)
    monkeypatch.setattr(s3_client, "THREADS", 2)  # of which one is for parts of files
    source = LocalStore(tmp_path / "source")
    manifest = commit(source, draft(key_of(1)), {"large": bytes(50 << 20)})
    parts: list[float] = []

    def slowly(request: Request) -> None:
        if request.method == "PUT" and "partNumber" in request.target:
            parts.append(time.monotonic())
            if len(parts) == 2:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(1)

    with FaultyProxy(s3_server.endpoint) as proxy:
        proxy.choose = slowly
        target = open_store(s3_url.replace(s3_server.endpoint, proxy.endpoint))
        what = compare(source, target, [("brew", manifest.key)])
        with pytest.raises(KeyboardInterrupt):
            transfer(source, target, what, lambda _: None)
        assert time.monotonic() - parts[1] < 5
        assert len(parts) <= 3
        assert "Uploads" not in s3_server.client().list_multipart_uploads(
            Bucket=BUCKET, Prefix=urlsplit(s3_url).path.strip("/")
        )
        proxy.choose = nothing
        transfer(source, target, compare(source, target, [("brew", manifest.key)]), lambda _: None)
        assert target.verify(manifest) == []


def test_a_step_that_the_target_ran_itself_stays(pair: Pair) -> None:
    source, target = pair
    own = commit(target.store, draft(REFS[0][1]), {"other": b"other"})
    copied(source, target)
    assert target.store.read(*REFS[0]) == own
    assert len(list(target.store.manifests())) == 5


def test_a_damaged_source_is_refused(pair: Pair) -> None:
    source, target = pair
    damaged = source.store.read(*REFS[1])
    assert damaged is not None
    name = blob_of(damaged, "own")
    source.delete(name)
    source.put(name, b"STEP 1")
    with pytest.raises(StoreError, match=r"other bytes|sha256|damaged"):
        copied(source, target)
    assert target.store.read(*REFS[1]) is None
    assert name not in target.names()
    source.delete(name)
    before = target.names()
    with pytest.raises(StoreError, match="output own is missing or cut short"):
        copied(source, target)
    assert target.names() == before


def test_a_damaged_target_is_repaired(pair: Pair) -> None:
    source, target = pair
    copied(source, target)
    first = target.store.read(*REFS[0])
    assert first is not None
    target.delete(blob_of(first, "own"))
    assert copied(source, target) == [6]
    assert target.store.verify(first) == []


def test_a_log_that_went_on_in_the_target_stays(pair: Pair) -> None:
    source, target = pair
    copy_run(source.store, target.store, "first")
    assert copy_run(source.store, target.store, "first") == 0
    source.store.append_run("first", "events.jsonl", '{"event": "more"}\n')
    source.store.write_run("first", "plan.json", b"[]")
    assert copy_run(source.store, target.store, "first") == 2
    target.store.append_run("first", "events.jsonl", '{"event": "here"}\n')
    theirs = target.store.read_run("first", "events.jsonl")
    source.store.append_run("first", "events.jsonl", '{"event": "there"}\n')
    assert copy_run(source.store, target.store, "first") == 0
    assert target.store.read_run("first", "events.jsonl") == theirs


def test_a_blob_that_went_meanwhile_is_told(kind: Folder) -> None:
    blob = Blob(name="a", size=5, sha256=key_of("gone"))
    with pytest.raises(StoreError, match="is not in the store; run the step again"), kind.store.blob_file(blob):
        pass


def test_other_bytes_are_no_blob(kind: Folder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other")
    blob = Blob(name="a", size=5, sha256=key_of("right"))
    with pytest.raises(StoreError):
        kind.store.upload(blob, tmp_path / "file")
    assert kind.names() == set()
    lacking: Manifest = draft(key_of(1), blobs=(blob,))
    with pytest.raises(StoreError, match="missing"):
        kind.store.settle(lacking)
    assert kind.store.read("brew", key_of(1)) is None


def test_the_command(pair: Pair) -> None:
    source, target = pair

    def copy(*words: str) -> str:
        return CliRunner().invoke(cache, ["copy", *words, "--store", source.store.url], catch_exceptions=False).stdout

    assert copy("first", "--to", target.store.url) == (
        f"copied 5 steps (7 outputs, 0.000 GB) and 2 files of run first to {target.store.url}; it had 0 steps; "
        f"1 are not done yet, so not in {source.store.url}\n"
    )
    assert "copied 0 steps (0 outputs, 0.000 GB) and 0 files" in copy("first", "--to", target.store.url)
    with pytest.raises(InputError, match="give another"):
        copy("first", "--to", source.store.url)
    with pytest.raises(InputError, match="no run 'frist'"):
        copy("frist", "--to", target.store.url)


def test_a_copied_run_is_all_cached_there(
    finished: Any, brewline: Callable[..., Any], tiny_file: Path, s3_url: str, s3_environment: dict[str, str]
) -> None:
    copy = brewline(
        "cache", "copy", finished.result["run"], "--store", finished.store, "--to", s3_url, **s3_environment
    )
    assert copy.returncode == 0, copy.stderr
    again = brewline("run", tiny_file, "--store", s3_url, "--json", **s3_environment)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout.splitlines()[-1])
    assert result["steps"]["cached"] == result["steps"]["total"] == finished.result["steps"]["total"]
    assert result["summary"] == finished.result["summary"]
