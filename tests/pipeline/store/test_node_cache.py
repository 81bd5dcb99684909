"""What a node's cache promises its processes: one download, right bytes, nothing taken away, room for more."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.store import Blob, StoreError, files, node_cache
from pipeline.store import node_scratch as scratch_module
from pipeline.store.node_cache import NodeCache
from pipeline.store.node_scratch import NodeScratch
from stages.config import InputError

KEY = "ab" * 32


def blob_of(data: bytes) -> Blob:
    return Blob(name="name", size=len(data), sha256=sha256(data).hexdigest())


def bring(data: bytes, path: Path) -> bool:
    path.write_bytes(data)
    return True


def never(path: Path) -> bool:
    raise AssertionError("downloaded again")


def kept(cache: NodeCache) -> set[str]:
    return {path.name for path in (cache.root / "blobs").iterdir()}


def pinned(cache: NodeCache, folder: Path, *contents: bytes) -> Path:
    """A pin for `folder` with these blobs in it."""
    folder.mkdir(exist_ok=True)
    pin = cache.pin(folder)
    for data in contents:
        assert cache.hold(blob_of(data), pin, partial(bring, data)) is None
    return pin


def test_a_blob_is_downloaded_once_for_all_threads(tmp_path: Path) -> None:
    cache, data, downloads = NodeCache(tmp_path / "node"), b"data" * 1000, []

    def slow(path: Path) -> bool:
        downloads.append(path)
        time.sleep(0.3)
        return bring(data, path)

    def use(number: int) -> bytes:
        (tmp_path / str(number)).mkdir()
        pin = cache.pin(tmp_path / str(number))
        assert cache.hold(blob_of(data), pin, slow) is None
        return (pin / blob_of(data).sha256).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {data}
    assert len(downloads) == 1


PROCESS = """
import sys, time
from functools import partial
from pathlib import Path
from pipeline.store import Blob
from pipeline.store.node_cache import NodeCache
from pipeline.store.node_scratch import NodeScratch
root, me, log = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
data = b"x" * 100_000
import hashlib
blob = Blob(name="x", size=len(data), sha256=hashlib.sha256(data).hexdigest())
def download(path):
    with log.open("a") as file:
        file.write("download\\n")
    time.sleep(0.5)
    path.write_bytes(data)
    return True
me.mkdir()
cache = NodeCache(root)
pin = cache.pin(me)
assert cache.hold(blob, pin, download) is None
attempt = NodeScratch(root / "scratch").folder("ab" * 32) / ("cd" * 16)
attempt.mkdir(exist_ok=True)
(attempt.parent / "checkpoint").write_bytes(b"step 100")
print(pin, flush=True)
sys.stdin.read()
"""


def start(root: Path, me: Path, log: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, root, me, log], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def pin_of(process: "subprocess.Popen[str]") -> Path:
    assert process.stdout is not None
    return Path(process.stdout.readline().strip())


def test_processes_share_a_download_and_what_a_dead_one_left_is_swept(tmp_path: Path) -> None:
    root = tmp_path / "node"
    first = start(root, tmp_path / "first", tmp_path / "log")
    pin = pin_of(first)
    # A living process keeps what it reads and writes, whatever others do.
    cache, scratch = NodeCache(root, bound=0), NodeScratch(root / "scratch")
    pinned(cache, tmp_path / "mine", b"other")
    scratch.sweep()
    assert len(list(pin.iterdir())) == 1
    assert len(kept(cache)) == 2
    assert {path.name for path in (root / "scratch" / KEY).iterdir()} == {"cd" * 16, "checkpoint"}

    first.send_signal(signal.SIGKILL)
    first.communicate()
    pinned(cache, tmp_path / "mine too", b"another")
    scratch.sweep()
    assert not pin.exists()
    assert blob_of(b"x" * 100_000).sha256 not in kept(cache)
    assert {path.name for path in (root / "scratch" / KEY).iterdir()} == {"checkpoint"}


def test_two_processes_download_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "node", tmp_path / str(number), tmp_path / "log") for number in range(2)]
    pins = {pin_of(process) for process in processes}
    assert len(pins) == 2
    assert (tmp_path / "log").read_text() == "download\n"
    for process in processes:
        process.communicate("")
        assert process.returncode == 0


def test_the_least_recently_used_go_first_and_what_is_in_use_stays(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "node", bound=3500)
    one, two, three, four = (letter * 1000 for letter in (b"1", b"2", b"3", b"4"))
    pinned(cache, tmp_path / "held", one)
    for data in (two, three):
        pinned(cache, tmp_path / "read", data)
        (tmp_path / "read").rmdir()
        time.sleep(0.01)
    pinned(cache, tmp_path / "read", two)  # now `three` is the oldest that nobody holds
    (tmp_path / "read").rmdir()
    pinned(cache, tmp_path / "last", four)
    assert kept(cache) == {blob_of(data).sha256 for data in (one, two, four)}

    for number in range(4):  # more than the bound is held: it gives way
        pinned(cache, tmp_path / f"held {number}", bytes([number]) * 1000)
    assert len(kept(cache)) == 6
    pin = cache.pin(tmp_path / "held")
    assert cache.hold(blob_of(one), pin, never) is None


def test_many_inputs_of_one_process_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    locked: list[Path] = []

    def sha256_of(path: Path) -> str:
        hashed.append(path)
        return sha256(path.read_bytes()).hexdigest()

    def take_lock(path: Path, shared: bool = False, wait: bool = True) -> int | None:
        locked.append(path)
        return files.take_lock(path, shared, wait)

    monkeypatch.setattr(files, "sha256_of", sha256_of)
    monkeypatch.setattr(node_cache, "take_lock", take_lock)
    cache = NodeCache(tmp_path / "node")
    for number in range(50):
        pinned(cache, tmp_path / str(number), b"many read the same")
    assert len(hashed) == 1
    assert len(locked) == 50 + 1  # a pin each, and the one download


def test_what_was_evicted_under_a_reader_is_still_there_for_it(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "node")
    pin = pinned(cache, tmp_path / "held", b"data")
    (tmp_path / "node/blobs" / blob_of(b"data").sha256).unlink()
    assert (pin / blob_of(b"data").sha256).read_bytes() == b"data"


def test_a_damaged_file_is_dropped_and_brought_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, blob = NodeCache(tmp_path / "node"), blob_of(b"data")
    pinned(cache, tmp_path / "first", b"data")
    stored = tmp_path / "node/blobs" / blob.sha256
    stored.chmod(0o644)
    stored.write_bytes(b"evil")
    os.utime(stored, (1, 1))
    pin = pinned(cache, tmp_path / "second", b"data")
    assert (pin / blob.sha256).read_bytes() == stored.read_bytes() == b"data"
    assert stored.stat().st_mode & 0o777 == 0o444
    assert "dropped" in caplog.text


@pytest.mark.parametrize(("data", "says"), [(b"evil", "holds other bytes"), (b"longer", "has 6 bytes, not 4")])
def test_what_arrives_damaged_is_not_kept(data: bytes, says: str, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "node")
    pin = pinned(cache, tmp_path / "folder", b"whole")
    problem = cache.hold(blob_of(b"data"), pin, partial(bring, data))
    assert problem is not None
    assert says in problem
    assert cache.hold(blob_of(b"none"), pin, lambda path: False) == "is not in the store"
    assert kept(cache) == {blob_of(b"whole").sha256}
    assert list((tmp_path / "node/downloads").iterdir()) == []


def test_a_download_that_was_killed_leaves_nothing(tmp_path: Path) -> None:
    cache, downloads = NodeCache(tmp_path / "node"), tmp_path / "node/downloads"
    downloads.mkdir(parents=True)
    for name in (KEY, f"{KEY}.lock", f"{KEY}.A1b2C3d4"):
        (downloads / name).touch()
    pinned(cache, tmp_path / "folder")
    assert list(downloads.iterdir()) == []


def test_what_passes_through_stays_as_long_as_its_process(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "node")
    with cache.passing() as path:
        path.write_bytes(b"on its way")
        cache.sweep()
        assert path.read_bytes() == b"on its way"
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom pipeline.store.node_cache import NodeCache\n"
        "with NodeCache(Path(sys.argv[1])).passing() as path:\n"
        "    path.write_bytes(b'x')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, cache.root], check=False)
    assert len(list((cache.root / "downloads").iterdir())) == 2
    cache.sweep()
    assert list((cache.root / "downloads").iterdir()) == []


def test_a_full_disk_gives_up_what_nobody_reads(small_disk: Path, tmp_path: Path) -> None:
    cache = NodeCache(small_disk / "node", bound=10**9)
    old, new, last = (letter * 100_000 for letter in (b"1", b"2", b"3"))
    pinned(cache, tmp_path / "old", old)
    (tmp_path / "old").rmdir()
    pinned(cache, tmp_path / "new", new)
    pinned(cache, tmp_path / "last", last)
    assert kept(cache) == {blob_of(new).sha256, blob_of(last).sha256}
    with pytest.raises(StoreError, match=r"disk is full: 100,000 bytes are needed .* BREWLINE_NODE_CACHE"):
        pinned(cache, tmp_path / "too much", b"4" * 100_000)
    for folder in ("new", "last", "too much"):
        (tmp_path / folder).rmdir()
    cache.sweep()
    assert list((small_disk / "node/pins").iterdir()) == []


def test_the_environment_names_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(tmp_path / "here"))
    cache = NodeCache.of_node()
    cache.probe()
    assert list((tmp_path / "here").iterdir()) == []
    for wrong in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv("BREWLINE_NODE_CACHE_GB", wrong)
        with pytest.raises(InputError, match=f"BREWLINE_NODE_CACHE_GB={wrong}: expected a number of GB"):
            NodeCache.of_node()
    monkeypatch.delenv("BREWLINE_NODE_CACHE_GB")
    monkeypatch.setenv("BREWLINE_NODE_CACHE", "/proc/brewline")
    with pytest.raises(InputError, match=r"cache /proc/brewline: cannot be written .* BREWLINE_NODE_CACHE"):
        NodeCache.of_node().probe()


def test_scratch_that_nobody_came_back_to_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = NodeScratch(tmp_path / "scratch")
    (scratch.folder(KEY) / "checkpoint").touch()
    other = "cd" * 32
    (tmp_path / "scratch" / other).mkdir()
    (tmp_path / "scratch" / other / "checkpoint").touch()
    (tmp_path / "scratch" / f"{other}.lock").touch()
    scratch.sweep()
    assert (tmp_path / "scratch" / other).exists()
    monkeypatch.setattr(scratch_module, "KEPT_SECONDS", 0)
    scratch.sweep()
    assert sorted(path.name for path in (tmp_path / "scratch").iterdir()) == [KEY, f"{KEY}.lock"]
    scratch.clear(KEY)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_threads_may_pin_and_sweep_at_once(tmp_path: Path) -> None:
    cache, barrier = NodeCache(tmp_path / "node", bound=2000), threading.Barrier(8)

    def use(number: int) -> None:
        barrier.wait()
        for turn in range(10):
            data = bytes([turn]) * 500
            folder = tmp_path / f"{number} {turn}"
            pin = pinned(cache, folder, data)
            assert (pin / blob_of(data).sha256).read_bytes() == data
            folder.rmdir()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
