"""What only S3 can suffer: answers that get lost, requests that fail, credentials that end, endpoints that lie."""

import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from faults import (
    CLOCK_SKEW,
    CONFLICT,
    CUT_BEFORE,
    LOST_RESPONSE,
    SLOW_DOWN,
    Fault,
    Request,
    at_rate,
    each,
    nothing,
    nth,
    on,
    once,
)
from faulty_proxy import FaultyProxy
from pipeline.store import (
    LEASE_SECONDS,
    Blob,
    DamagedBlob,
    Manifest,
    StoreError,
    new_write_id,
    open_store,
    s3_client,
    s3_runs,
    s3_upkeep,
)
from pipeline.store.s3 import S3Store
from pipeline.store.s3_address import parse
from pipeline.store.s3_client import Patience
from s3_server import BUCKET, S3Server, free_ports, serving, weed
from stages.config import InputError

KEY = "ab" * 32
OUTPUTS = {"deep/images.npy": b"\x01" * 5000, "ids.npy": b"12345678", "empty": b""}
DENIED = Fault("AccessDenied", 403)
QUICK = Patience(deadline=60, longest=0.02)


def draft(key: str = KEY) -> Manifest:
    return Manifest(stage="brew", key=key, version=1, params={}, inputs={}, write_id=new_write_id())


def written(folder: Path, outputs: dict[str, bytes]) -> Path:
    for name, data in outputs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def through(s3_url: str, s3_server: S3Server, proxy: FaultyProxy) -> str:
    """The URL of an empty store that is reached through the proxy."""
    return s3_url.replace(s3_server.endpoint, proxy.endpoint)


@pytest.fixture
def raw(s3_server: S3Server, s3_url: str) -> "Raw":
    return Raw(s3_server.client(), urlsplit(s3_url).path.strip("/"))


class Raw:
    """The objects of the test's store, behind its back."""

    def __init__(self, client: Any, prefix: str) -> None:
        self.client, self.prefix = client, prefix

    def names(self, below: str = "") -> list[str]:
        answer = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/{below}")
        return [entry["Key"].removeprefix(f"{self.prefix}/") for entry in answer.get("Contents", ())]

    def head(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.head_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")
        return found

    def put(self, name: str, data: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data, **options)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")


def quick(url: str) -> S3Store:
    return S3Store(parse(url), QUICK)


# what a network does


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_any_rate_of_failures_ends_well(
    rate: float, through: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "PART", 5 << 20)
    store, outputs = quick(through), OUTPUTS | ({"large": os.urandom(21 << 20)} if rate < 0.9 else {})
    proxy.choose = at_rate(rate)
    first = store.commit(written(tmp_path / "first", outputs), draft())
    again = store.commit(written(tmp_path / "second", outputs), draft())
    assert again == first == store.read("brew", KEY)
    assert store.missing(first) == []
    store.fetch(first, tmp_path / "inputs")
    assert contents(tmp_path / "inputs") == outputs
    assert store.verify(first) == []
    for number in range(20):
        store.append_run("run", "events.jsonl", f"{number}\n")
    assert store.read_run("run", "events.jsonl") == "".join(f"{number}\n" for number in range(20)).encode()
    assert store.acquire(KEY, "me") == 0
    assert store.acquire(KEY, "another") > 0
    assert [(found.key, missing) for found, missing in store.look([("brew", KEY), ("brew", "cd" * 32)])] == [(KEY, [])]


@pytest.mark.parametrize("damaged", [False, True], ids=["create", "replace"])
def test_a_manifest_whose_answer_is_lost_is_our_own(
    damaged: bool, through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path
) -> None:
    store = quick(through)
    if damaged:
        lost = store.commit(written(tmp_path / "before", {"lost": b"lost"}), draft())
        raw.delete(f"blobs/{lost.blobs[0].sha256}")
    proxy.choose = each(LOST_RESPONSE, nth(1 if damaged else 0, of=on("PUT", "/steps/")))
    mine = draft()
    committed = store.commit(written(tmp_path / "out", OUTPUTS), mine)
    assert committed.write_id == mine.write_id
    assert store.read("brew", KEY) == committed
    assert store.verify(committed) == []


def test_a_write_of_two_at_once_is_tried_again(through: str, proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.choose = once(CONFLICT, on("PUT", "/steps/"))
    mine = draft()
    assert quick(through).commit(written(tmp_path / "out", OUTPUTS), mine).write_id == mine.write_id


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (400, "InvalidRequest"), (404, "NoSuchBucket"), (412, "PreconditionFailed")],
)
def test_a_refusal_is_not_tried_again(status: int, code: str, through: str, proxy: FaultyProxy) -> None:
    proxy.choose = each(Fault(code, status))
    with pytest.raises(StoreError):
        quick(through).append_run("run", "name", "a line\n")
    assert len(proxy.requests) == 1


def test_a_server_that_stays_away_is_an_error_after_the_deadline(
    through: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    store = S3Store(parse(through), Patience(deadline=1, longest=0.1))
    proxy.choose = each(SLOW_DOWN)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"refused, after \d+ tries: SlowDown Please reduce"):
        store.write_run("run", "name", b"data")
    assert 0.5 < time.monotonic() - started < 10
    assert proxy.count("PUT") > 5
    with pytest.raises(StoreError, match=r"HeadObject was refused, after \d+ tries"):
        store.missing(draft().model_copy(update={"blobs": (Blob(name="a", size=1, sha256=KEY),)}))
    assert proxy.count("GET") == 0  # it was tried for long enough
    proxy.choose = each(CUT_BEFORE)
    with pytest.raises(StoreError, match=r"S3 did not answer .* nothing that was committed is lost"):
        store.commit(written(tmp_path / "out", OUTPUTS), draft())
    assert contents(tmp_path / "out") == OUTPUTS


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    tmp_path: Path, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "server") as server:
        for name, value in server.owner.environment.items():
            monkeypatch.setenv(name, value)
        store = open_store(server.url())
        first = store.commit(written(tmp_path / "first", OUTPUTS), draft())
        server.kill()
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(store.commit, written(tmp_path / "second", {"a": b"a"}), draft("cd" * 32))
            server.start()
            assert second.result(timeout=60).blobs
        assert store.verify(first) == []


# what S3 says, for people


EXPIRED = Fault("ExpiredToken", 400, "The provided token SESSION-TOKEN has expired.")
INVALID = Fault("InvalidAccessKeyId", 403, "AWSAccessKeyId=OWNERACCESSKEY is not known")


@pytest.mark.parametrize(("fault", "says"), [(EXPIRED, "have expired"), (INVALID, "are not valid here")])
def test_credentials_that_end_in_the_middle_are_said_without_them(
    fault: Fault,
    says: str,
    through: str,
    proxy: FaultyProxy,
    s3_server: S3Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = quick(through)
    store.write_run("run", "name", b"data")
    proxy.choose = each(fault)
    with caplog.at_level(logging.INFO), pytest.raises(StoreError, match=says) as caught:
        store.commit(written(tmp_path / "out", OUTPUTS), draft())
    for secret in (s3_server.owner.secret, s3_server.owner.access, "SESSION-TOKEN", "X-Amz"):
        assert secret not in f"{''.join(traceback.format_exception(caught.value))} {caught.value!r} {caplog.text}"
    assert len(proxy.requests) <= 1 + 4 * len(OUTPUTS)


def test_a_server_that_repeats_secrets_is_not_repeated(
    through: str, proxy: FaultyProxy, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "SESSION-TOKEN")
    told = (
        f"{s3_server.owner.secret} SESSION-TOKEN http://u:hidden@h/?X-Amz-Signature=abcdef&amp;X-Amz-Credential=cred/x"
    )
    proxy.choose = each(Fault("Odd", 400, told))
    with pytest.raises(StoreError, match="was refused: Odd") as caught:
        quick(through).write_run("run", "name", b"data")
    for secret in (s3_server.owner.secret, "SESSION-TOKEN", "hidden", "abcdef", "cred/x"):
        assert secret not in str(caught.value)


def test_a_clock_that_is_off_is_said(through: str, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture) -> None:
    proxy.clock_offset = timedelta(minutes=20)
    with pytest.raises(InputError, match="clock is 20 minutes behind the server's"):
        open_store(through).probe()
    proxy.clock_offset = timedelta(minutes=-5)
    open_store(through).probe()
    assert "clock is 5 minutes ahead of the server's" in caplog.text
    proxy.clock_offset = timedelta(minutes=30)
    proxy.choose = each(CLOCK_SKEW)
    with pytest.raises(StoreError, match="clock is 30 minutes behind the server's"):
        quick(through).write_run("run", "name", b"data")


def test_probe_finds_a_good_store_and_leaves_nothing(s3_url: str, raw: Raw, s3_server: S3Server) -> None:
    open_store(f"{s3_url}&region=us-east-1&storage_class=STANDARD").probe()
    assert raw.names() == []
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=raw.prefix)


def test_probe_does_not_take_a_lost_answer_for_an_ignored_condition(through: str, proxy: FaultyProxy) -> None:
    def write(request: Request) -> bool:
        return request.method == "PUT" and "uploadId" not in request.target

    proxy.choose = each(LOST_RESPONSE, nth(0, 3, of=write))  # each of the two writes that are to be done
    open_store(through).probe()
    assert sum(map(write, proxy.requests)) == 6
    assert proxy.injected == {LOST_RESPONSE: 2}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("bucket", "there is no bucket 'no-such-bucket'; make it"),
        ("rights", "may not do s3:PutObject on bucket"),
        ("secret", "credentials are not valid here .SignatureDoesNotMatch"),
        ("no keys", "no credentials for S3 were found"),
        ("profile", "check AWS_PROFILE"),
        ("closed port", "S3 did not answer .* Check the endpoint"),
        ("silent", "S3 did not answer .* Check the endpoint"),
        ("no S3", "speaks S3|not answer|refused"),
    ],
)
def test_probe_says_what_is_missing(
    change: str, says: str, s3_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = s3_url
    with socket.create_server(("127.0.0.1", 0)) as silent:
        match change:
            case "bucket":
                url = url.replace(BUCKET, "no-such-bucket")
            case "rights":
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader.access)
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.reader.secret)
            case "secret":
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
            case "no keys":
                monkeypatch.delenv("AWS_ACCESS_KEY_ID")
                monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            case "profile":
                monkeypatch.setenv("AWS_PROFILE", "nobody")
            case "closed port":
                url = url.replace(s3_server.endpoint, "http://127.0.0.1:1")
            case "silent":
                url = url.replace(s3_server.endpoint, f"http://127.0.0.1:{silent.getsockname()[1]}")
            case "no S3":
                url = url.replace(s3_server.endpoint, f"http://127.0.0.1:{s3_server.ports['master']}")
        started = time.monotonic()
        with pytest.raises(InputError, match=says):
            open_store(url).probe()
        assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (DENIED, "may not do s3:ListBucket"),
        (EXPIRED, "credentials have expired"),
        (Fault("AuthorizationHeaderMalformed", 400, "expecting 'eu-west-1'"), "give --s3-region eu-west-1"),
    ],
)
def test_probe_says_what_the_server_refuses(fault: Fault, says: str, through: str, proxy: FaultyProxy) -> None:
    proxy.choose = each(fault, on("GET", "list-type=2"))
    with pytest.raises(InputError, match=says):
        open_store(through).probe()


@pytest.mark.parametrize(
    ("method", "query", "right"),
    [("GET", "uploads", "s3:ListBucketMultipartUploads"), ("GET", "uploadId=", "s3:ListMultipartUploadParts")],
)
def test_a_right_that_only_cleaning_needs_is_named(
    method: str, query: str, right: str, through: str, proxy: FaultyProxy, raw: Raw
) -> None:
    raw.client.create_multipart_upload(Bucket=BUCKET, Key=f"{raw.prefix}/blobs/{KEY}")
    proxy.choose = each(DENIED, on(method, query))
    with pytest.raises(StoreError, match=f"may not do {right} on"):
        list(quick(through).sweep(0, set(), True))


def test_probe_names_the_right_to_delete(through: str, proxy: FaultyProxy) -> None:
    proxy.choose = each(DENIED, on("DELETE"))
    with pytest.raises(InputError, match="may not do s3:DeleteObject"):
        open_store(through).probe()


def test_probe_refuses_an_endpoint_without_conditional_writes(s3_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "served/bucket").mkdir(parents=True)
    port, rclone = free_ports(1)[0], Path(weed()).with_name("rclone")
    keys = f"{s3_environment['AWS_ACCESS_KEY_ID']},{s3_environment['AWS_SECRET_ACCESS_KEY']}"
    server = subprocess.Popen(
        [rclone, "serve", "s3", tmp_path / "served", "--addr", f"127.0.0.1:{port}", "--auth-key", keys],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.raises(InputError, match=r"ignores conditional writes \(If-None-Match\)"):
            open_store(f"s3://bucket/x?endpoint=http://127.0.0.1:{port}").probe()
    finally:
        server.kill()
        server.wait()


# blobs


def test_what_is_there_is_not_uploaded_again(through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path) -> None:
    store = quick(through)
    first = store.commit(written(tmp_path / "first", OUTPUTS), draft())
    for blob in first.blobs:
        assert raw.head(f"blobs/{blob.sha256}")["Metadata"] == {"sha256": blob.sha256}
    proxy.requests.clear()
    store.commit(written(tmp_path / "second", OUTPUTS), draft("cd" * 32))
    assert proxy.count("PUT") == 1  # the manifest


def test_an_input_may_be_an_output_and_costs_nothing(
    through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path
) -> None:
    store = quick(through)
    first = store.commit(written(tmp_path / "first", {"base/shard": b"shard" * 1000}), draft())
    store.fetch(first, tmp_path / "inputs")
    out = tmp_path / "out"
    out.mkdir()
    (out / "same").symlink_to(tmp_path / "inputs/base/shard")
    proxy.requests.clear()
    second = store.commit(out, draft("cd" * 32))
    assert [blob.sha256 for blob in second.blobs] == [blob.sha256 for blob in first.blobs]
    assert (proxy.count("PUT"), proxy.count("GET")) == (1, 0)
    (out / "other").symlink_to("/etc/hostname")
    with pytest.raises(StoreError, match="is a link or a device"):
        store.commit(out, draft("ef" * 32))

    raw.delete(f"blobs/{first.blobs[0].sha256}")  # collected meanwhile: the node still has it
    (out / "other").unlink()
    assert store.missing(store.commit(out, draft("ef" * 32))) == []


def test_an_old_blob_is_made_young_before_a_manifest_names_it(
    s3_url: str, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = quick(s3_url)
    first = store.commit(written(tmp_path / "first", {"a": b"a"}), draft())
    name = f"blobs/{first.blobs[0].sha256}"
    before = raw.head(name)
    monkeypatch.setattr(s3_upkeep, "GRACE_SECONDS", 1)
    time.sleep(2.1)
    store.commit(written(tmp_path / "second", {"a": b"a"}), draft("cd" * 32))
    after = raw.head(name)
    assert after["LastModified"] > before["LastModified"]
    assert (after["Metadata"], after["ContentLength"]) == (before["Metadata"], before["ContentLength"])


def test_an_old_blob_that_may_not_be_copied_is_uploaded_anew(
    through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = quick(through)
    first = store.commit(written(tmp_path / "first", {"a": b"a"}), draft())
    name = f"blobs/{first.blobs[0].sha256}"
    before = raw.head(name)["LastModified"]
    monkeypatch.setattr(s3_upkeep, "GRACE_SECONDS", 1)
    time.sleep(2.1)
    proxy.choose = once(DENIED, on("PUT", "/blobs/"))
    store.commit(written(tmp_path / "second", {"a": b"a"}), draft("cd" * 32))
    assert proxy.injected == {DENIED: 1}
    assert raw.head(name)["LastModified"] > before


def test_a_blob_that_is_collected_before_the_manifest_names_it_comes_back(
    through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path
) -> None:
    def collect(request: Request) -> None:
        if on("PUT", "/steps/")(request):
            for name in raw.names("blobs/"):
                raw.delete(name)

    proxy.choose = collect
    committed = quick(through).commit(written(tmp_path / "out", OUTPUTS), draft())
    assert open_store(through).verify(committed) == []


def test_a_copy_does_not_end_well_without_its_blobs(through: str, proxy: FaultyProxy, raw: Raw, tmp_path: Path) -> None:
    store = quick(through)
    source = store.commit(written(tmp_path / "out", OUTPUTS), draft("cd" * 32))

    def collect(request: Request) -> None:
        if on("PUT", "/steps/")(request):
            raw.delete(f"blobs/{source.blobs[0].sha256}")

    proxy.choose = collect
    with pytest.raises(StoreError, match=f"blobs/{source.blobs[0].sha256} was collected .* copy it again"):
        store.settle(draft().model_copy(update={"blobs": source.blobs}))
    proxy.choose = nothing
    store.upload(source.blobs[0], tmp_path / "out" / source.blobs[0].name)
    assert store.missing(store.settle(draft().model_copy(update={"blobs": source.blobs}))) == []


@pytest.mark.parametrize("same", [True, False], ids=["same bytes", "other bytes"])
def test_damage_that_only_reading_shows_is_repaired_by_running_again(
    same: bool, s3_url: str, raw: Raw, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(s3_url)
    first = store.commit(written(tmp_path / "first", {"a": b"good"}), draft())
    blob = first.blobs[0]
    raw.put(f"blobs/{blob.sha256}", b"evil", Metadata={"sha256": blob.sha256})
    assert store.missing(first) == []
    assert "holds other bytes" in store.verify(first)[0]
    with pytest.raises(DamagedBlob, match="a holds other bytes"):
        store.fetch(first, tmp_path / "inputs")

    second = store.commit(written(tmp_path / "second", {"a": b"good" if same else b"other"}), draft(), again=True)
    assert (second == first) == same
    assert store.verify(second) == []
    assert ("replaced manifest" in caplog.text) != same


def test_damage_is_repaired_from_a_node_that_fetched_it_whole(s3_url: str, raw: Raw, tmp_path: Path) -> None:
    store = open_store(s3_url)
    first = store.commit(written(tmp_path / "first", {"shard": b"good"}), draft())
    blob = first.blobs[0]
    store.fetch(first, tmp_path / "inputs")

    def hand_on(name: str, again: bool) -> Manifest:
        (tmp_path / name).mkdir()
        (tmp_path / name / "base").symlink_to(tmp_path / "inputs/shard")
        return store.commit(tmp_path / name, draft("cd" * 32), again)

    base = hand_on("whole", again=False)
    raw.put(f"blobs/{blob.sha256}", b"evil", Metadata={"sha256": blob.sha256})
    assert store.verify(base) != []
    assert hand_on("again", again=True) == base
    assert store.verify(base) == []


def test_large_files_go_in_parts_and_come_back_whole(
    s3_url: str, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "PART", 5 << 20)
    data = os.urandom(23 << 20)
    store = open_store(s3_url)
    manifest = store.commit(written(tmp_path / "out", {"large": data}), draft())
    assert raw.head(f"blobs/{manifest.blobs[0].sha256}")["ETag"].endswith('-5"')
    store.fetch(manifest, tmp_path / "inputs")
    assert (tmp_path / "inputs/large").read_bytes() == data
    assert store.verify(manifest) == []


# scratch, runs, leases


def test_checkpoints_move_between_nodes(s3_url: str, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3_url)
    (store.scratch(KEY) / "checkpoint").write_bytes(b"step 100")
    place = store.push_scratch(KEY, "checkpoint")
    assert place == f"s3://{BUCKET}/{raw.prefix}/scratch/{KEY}/checkpoint"
    assert [path.name for path in store.scratch(KEY).iterdir()] == ["checkpoint"]
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(tmp_path / "another node"))
    assert list(store.scratch(KEY).iterdir()) == []
    store.pull_scratch(KEY, "checkpoint")
    assert (store.scratch(KEY) / "checkpoint").read_bytes() == b"step 100"
    (store.scratch(KEY) / "checkpoint").write_bytes(b"step 200")
    store.pull_scratch(KEY, "checkpoint", lambda pulled: pulled.read_bytes() != b"step 100")
    assert (store.scratch(KEY) / "checkpoint").read_bytes() == b"step 200"
    assert [path.name for path in store.scratch(KEY).iterdir()] == ["checkpoint"]
    store.clear_scratch(KEY)
    assert raw.names("scratch/") == []
    assert list(store.scratch(KEY).iterdir()) == []
    with pytest.raises(StoreError, match="could not be brought"):
        store.push_scratch(KEY, "no such file")


def test_a_step_that_is_done_does_not_fail_for_its_scratch(
    through: str, proxy: FaultyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    store = quick(through)
    (store.scratch(KEY) / "checkpoint").write_bytes(b"step 100")
    store.push_scratch(KEY, "checkpoint")
    proxy.choose = each(DENIED, on("GET", "list-type=2"))
    store.clear_scratch(KEY)
    assert list(store.scratch(KEY).iterdir()) == []
    assert "stays until the next `brewline cache gc`" in caplog.text


def test_a_run_file_grows_in_parts(s3_url: str, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_runs, "SEGMENT", 100)
    first, second = open_store(s3_url), open_store(s3_url)
    lines = [f"{number:049}\n" for number in range(7)]
    for line in lines:
        first.append_run("run", "events.jsonl", line)
    second.append_run("run", "events.jsonl", "another process\n")
    assert len(raw.names("runs/run/events.jsonl/")) == 5
    assert first.read_run("run", "events.jsonl") == ("".join(lines) + "another process\n").encode()


def test_lines_of_several_threads_all_arrive(s3_url: str) -> None:
    store = open_store(s3_url)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.append_run("run", "log", f"{number}\n"), range(40)))
    assert sorted(map(int, (store.read_run("run", "log") or b"").split())) == list(range(40))


def test_a_lease_that_is_not_renewed_is_anothers_to_take(through: str, proxy: FaultyProxy, raw: Raw) -> None:
    stores = [quick(through) for _ in range(6)]
    assert stores[0].acquire(KEY, "dead") == 0
    written_first = raw.head(f"leases/{KEY}")
    time.sleep(1.1)
    assert stores[0].acquire(KEY, "dead") == 0
    renewed = raw.head(f"leases/{KEY}")
    assert renewed["LastModified"] > written_first["LastModified"]
    assert renewed["ETag"] != written_first["ETag"]
    proxy.passed = timedelta(seconds=LEASE_SECONDS - 20)
    assert 0 < stores[1].acquire(KEY, "1") <= 20
    proxy.passed = timedelta(seconds=LEASE_SECONDS + 5)
    assert stores[2].acquire(KEY, "2") == 0
    proxy.passed = timedelta()
    assert stores[0].acquire(KEY, "dead") > 0


def test_renewing_a_lease_is_one_request(through: str, proxy: FaultyProxy, raw: Raw) -> None:
    store = quick(through)
    assert store.acquire(KEY, "me") == 0
    for _ in range(2):
        proxy.requests.clear()
        assert store.acquire(KEY, "me") == 0
        assert [request.method for request in proxy.requests] == ["PUT"]
    proxy.choose = once(LOST_RESPONSE, on("PUT", "/leases/"))
    assert store.acquire(KEY, "me") == 0, "its own, whose answer was lost"
    assert quick(through).acquire(KEY, "another") > 0
    raw.delete(f"leases/{KEY}")  # as `cache gc` drops one that was not renewed for long
    assert store.acquire(KEY, "me") == 0
    assert quick(through).acquire(KEY, "another") > 0
    raw.delete(f"leases/{KEY}")
    assert quick(through).acquire(KEY, "another") == 0
    assert store.acquire(KEY, "me") > 0
    store.release(KEY, "me")
    assert quick(through).acquire(KEY, "a third") > 0


def test_of_several_that_want_a_lease_one_gets_it(s3_url: str) -> None:
    stores = [open_store(s3_url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: stores[number].acquire(KEY, str(number)), range(6)))
    assert answers.count(0) == 1
    assert stores[0].acquire(KEY, str(answers.index(0))) == 0


def test_a_store_that_was_used_is_sent_to_another_process(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    manifest = store.commit(written(tmp_path / "out", OUTPUTS), draft())
    store.append_run("run", "log", "here\n")
    (tmp_path / "store").write_bytes(pickle.dumps(store))
    code = (
        "import pickle, sys; store = pickle.load(open(sys.argv[1], 'rb')); assert 'boto3' not in sys.modules; "
        "store.append_run('run', 'log', 'there\\n'); print(store.read('brew', sys.argv[2]).write_id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "store", KEY], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == manifest.write_id
    assert store.read_run("run", "log") == b"here\nthere\n"


def test_threads_share_a_store(s3_url: str, tmp_path: Path) -> None:
    store, barrier = open_store(s3_url), threading.Barrier(8)

    def commit(number: int) -> Manifest:
        folder = written(tmp_path / str(number), OUTPUTS | {"own": str(number).encode()})
        barrier.wait()
        return store.commit(folder, draft())

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(commit, range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert store.verify(answers[0]) == []
