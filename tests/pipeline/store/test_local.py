"""What only a folder can suffer: crashes at any call, full and foreign disks, links, odd paths."""

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.store import open_store
from pipeline.store.local import LocalStore
from pipeline.store.manifest import DamagedBlob, Manifest, StoreError, new_write_id
from stages.config import InputError

KEY = "ab" * 32
OUTPUTS = {"deep/images.npy": b"\x01" * 5000, "ids.npy": b"12345678", "empty": b""}
CHANGES = ("open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename")
"""The audit events of CPython that a commit raises: one for each call that may change the disk."""


def draft() -> Manifest:
    return Manifest(stage="brew", key=KEY, version=1, params={}, inputs={}, write_id=new_write_id())


def written(folder: Path, outputs: dict[str, bytes]) -> Path:
    for name, data in outputs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def kept(store: Path) -> list[str]:
    """All that the store keeps, temporary files included."""
    folders = (store / "blobs", store / "steps")
    return sorted(path.name for folder in folders for path in folder.rglob("*") if not path.is_dir())


def commit_until(store: LocalStore, folder: Path, last: int) -> None:
    """Commit, and die as if the power went at change number `last` of the disk."""
    seen = 0

    def watch(event: str, _: object) -> None:
        nonlocal seen
        if event in CHANGES:
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    manifest = draft()
    sys.addaudithook(watch)
    store.commit(folder, manifest)


@pytest.mark.parametrize("damaged", [False, True], ids=["first commit", "repair"])
def test_a_crash_anywhere_leaves_nothing_or_a_whole_step(tmp_path: Path, damaged: bool) -> None:
    last, outcomes = 0, []
    while not outcomes or outcomes[-1][0] != 0:
        last += 1
        root = tmp_path / str(last)
        store = LocalStore(root / "store")
        if damaged:
            before = store.commit(written(root / "before", {"lost": b"lost"}), draft())
            (root / "store/blobs" / before.blobs[0].sha256).unlink()
        folder = written(store.scratch(KEY) / "attempt", OUTPUTS)
        child = multiprocessing.get_context("fork").Process(target=commit_until, args=(store, folder, last))
        child.start()
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL)

        found = store.read("brew", KEY)
        whole = found is not None and not store.verify(found)
        outcomes.append((child.exitcode, whole))
        if found is not None and not whole:
            assert damaged
            assert found.write_id == before.write_id
        again = store.commit(written(store.scratch(KEY) / "again", OUTPUTS), draft())
        assert store.verify(again) == []
        assert again == store.read("brew", KEY)
        assert (again == found) == whole
        assert {blob.sha256 for blob in again.blobs} == {sha256(data).hexdigest() for data in OUTPUTS.values()}
    assert (-signal.SIGKILL, False) in outcomes
    assert (-signal.SIGKILL, True) in outcomes
    assert outcomes[-1] == (0, True)


def test_a_repair_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LocalStore(tmp_path / "store")
    first = store.commit(written(tmp_path / "first", OUTPUTS), draft())
    blobs = {blob.name: tmp_path / "store/blobs" / blob.sha256 for blob in first.blobs}
    blobs["ids.npy"].unlink()
    blobs["ids.npy"].write_bytes(b"1234567X")
    blobs["empty"].unlink()
    with caplog.at_level(logging.WARNING):
        assert store.commit(written(tmp_path / "second", {"ids.npy": b"12345678"}), draft()) != first
    assert "repaired ids.npy" in caplog.messages[0]
    assert "holds other bytes" in caplog.messages[0]
    assert "replaced manifest" in caplog.messages[1]
    assert "is not in the store" in caplog.messages[1]


def test_a_repair_waits_for_another(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    first = store.commit(written(tmp_path / "first", {"lost": b"lost"}), draft())
    (tmp_path / "store/blobs" / first.blobs[0].sha256).unlink()
    repair = threading.Thread(target=store.commit, args=(written(tmp_path / "second", OUTPUTS), draft()))
    with (tmp_path / "store/repair.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        repair.start()
        repair.join(0.5)
        assert repair.is_alive()
        assert store.read("brew", KEY) == first
    repair.join(60)
    found = store.read("brew", KEY)
    assert found is not None
    assert store.verify(found) == []


def test_outputs_are_moved_in_not_copied_and_cannot_be_written(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    folder = written(store.scratch(KEY) / "attempt", OUTPUTS)
    inodes = {path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    manifest = store.commit(folder, draft())
    assert {(tmp_path / "store/blobs" / blob.sha256).stat().st_ino for blob in manifest.blobs} == inodes
    store.fetch(manifest, tmp_path / "inputs")
    for path in (tmp_path / "inputs").rglob("*.npy"):
        assert path.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o444


def test_outputs_on_another_disk_are_copied(small_disk: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = store.commit(written(small_disk / "attempt", OUTPUTS), draft())
    assert store.verify(manifest) == []
    assert kept(tmp_path / "store") == sorted([f"{KEY}.json", *(blob.sha256 for blob in manifest.blobs)])


@pytest.mark.parametrize("scratch", ["elsewhere", "in the store"])
def test_a_full_disk_is_explained_and_loses_nothing(small_disk: Path, tmp_path: Path, scratch: str) -> None:
    store = LocalStore(small_disk / "store")
    store.probe()
    size = 200_000 if scratch == "in the store" else 300_000
    folder = store.scratch(KEY) / "attempt" if scratch == "in the store" else tmp_path / "attempt"
    written(folder, {"large": b"x" * size})
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left") as caught, filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert caught.value.errno == errno.ENOSPC

    with pytest.raises(StoreError) as failed:
        store.commit(folder, draft())
    for part in (str(folder), f"{size:,} bytes are needed", "0 are free", "Free some space"):
        assert part in str(failed.value)
    assert store.read("brew", KEY) is None
    assert not any(name.endswith((".tmp", ".json")) for name in kept(small_disk / "store"))
    assert (folder / "large").read_bytes() == b"x" * size
    with pytest.raises(InputError, match="disk is full"):
        store.probe()
    with pytest.raises(StoreError, match="disk is full"):
        store.append_run("run", "events.jsonl", "{}\n")

    filler.unlink()
    if scratch == "in the store":
        assert store.verify(store.commit(folder, draft())) == []


def test_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    LocalStore(tmp_path / "new/store").probe()
    assert [path.name for path in (tmp_path / "new/store").iterdir()] == ["repair.lock"]


def test_probe_names_a_path_that_cannot_be_a_store(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a file")
    for path, reason in ((file, "it is a file"), (file / "store", "a part of the path is a file")):
        with pytest.raises(InputError, match=f"{path}: cannot be written .*{reason}"):
            LocalStore(path).probe()
    with pytest.raises(InputError, match="/proc/brewline: cannot be written"):
        LocalStore(Path("/proc/brewline")).probe()


def test_probe_refuses_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(InputError, match="mounted read-only"):
        LocalStore(small_disk / "store").probe()


def test_an_input_may_be_an_output_and_costs_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = store.commit(written(tmp_path / "attempt", OUTPUTS), draft())
    store.fetch(manifest, tmp_path / "inputs")
    again = tmp_path / "again"
    again.mkdir()
    for number, blob in enumerate(manifest.blobs):
        (again / f"{number}").symlink_to((tmp_path / "inputs" / blob.name).resolve())
    before = sorted((tmp_path / "store/blobs").iterdir())
    other = store.commit(again, draft().model_copy(update={"key": "cd" * 32}))
    assert [(b.size, b.sha256) for b in other.blobs] == [(b.size, b.sha256) for b in manifest.blobs]
    assert sorted((tmp_path / "store/blobs").iterdir()) == before
    assert store.verify(other) == []


def test_a_store_behind_a_link_takes_inputs_as_outputs_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "link" / "store")
    manifest = store.commit(written(tmp_path / "attempt", {"a": b"a"}), draft())
    store.fetch(manifest, tmp_path / "inputs")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "b").symlink_to((tmp_path / "inputs" / "a").resolve())
    other = store.commit(tmp_path / "again", draft().model_copy(update={"key": "cd" * 32}))
    assert other.blobs[0].sha256 == manifest.blobs[0].sha256


def test_a_large_blob_is_hashed_once_for_all_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.files.LARGE", 1000)
    store = LocalStore(tmp_path / "store")
    manifest = store.commit(written(tmp_path / "attempt", OUTPUTS), draft())
    store.fetch(manifest, tmp_path / "first")
    large = next(blob for blob in manifest.blobs if blob.size > 1000)
    assert [note.name for note in (tmp_path / "store/hashed").iterdir()] == [large.sha256]

    def refuse(path: Path) -> str:
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.store.files.sha256_of", refuse)
        store.fetch(manifest, tmp_path / "second")
    blob = tmp_path / "store/blobs" / large.sha256
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    with pytest.raises(DamagedBlob, match="other bytes"):
        store.fetch(manifest, tmp_path / "third")


def test_links_are_no_outputs(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    folder = written(tmp_path / "attempt", {"a": b"a"})
    (folder / "link").symlink_to(folder / "a")
    with pytest.raises(StoreError, match="link is a link"):
        store.commit(folder, draft())
    assert store.read("brew", KEY) is None


def test_fetch_does_not_overwrite(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = store.commit(written(tmp_path / "attempt", {"a": b"a"}), draft())
    written(tmp_path / "inputs", {"a": b"mine"})
    with pytest.raises(StoreError, match="is there already"):
        store.fetch(manifest, tmp_path / "inputs")
    assert (tmp_path / "inputs/a").read_bytes() == b"mine"


def test_a_blob_that_cannot_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    manifest = store.commit(written(tmp_path / "attempt", {"a": b"a"}), draft())
    (tmp_path / "store/blobs").rename(tmp_path / "aside")
    (tmp_path / "store/blobs").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot be read .*not known"):
        store.missing(manifest)


@pytest.mark.parametrize("url", [Path("s3://bucket"), "gs://bucket", "S3://bucket", "", "file:///data"])
def test_refuses_what_it_cannot_open(url: str | Path) -> None:
    with pytest.raises(InputError, match=r"give a |expected s3://bucket"):
        open_store(url)


def test_who_may_only_read_learns_how_a_run_goes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.append_run("first", "events.jsonl", "{}\n")
    if subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no permission to mount a folder read-only")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", tmp_path], check=True)
        assert 0 <= (store.age_run("first", "events.jsonl") or 0) < 10
        assert store.age_run("second", "events.jsonl") is None
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_relative_folder_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("here").url == str(tmp_path / "here")
    assert open_store("~/there").url == str(Path.home() / "there")


def test_what_others_put_beside_the_runs_is_passed_over(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.append_run("first", "events.jsonl", "{}\n")
    (tmp_path / "runs/readme.txt").write_text("a note")
    (tmp_path / "runs/.Trash").mkdir()
    assert store.runs() == ["first"]
