"""Poisoned datasets that a real S3 server makes in its bucket, by the real command, beside those made in a folder."""

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults import CUT_BEFORE, Fault, Request, on
from faulty_proxy import FaultyProxy
from pipeline.bucket_export import Base, BucketExport, check_target, outlined, target
from pipeline.cli_export import content_of, find
from pipeline.store import DamagedBlob, Manifest, Store, new_write_id, open_store
from pipeline.store.s3_address import Address, parse
from pipeline.store.s3_client import Patience
from pipeline.store.s3_objects import Objects
from s3_server import BUCKET, S3Server
from stages.config import InputError
from stages.data.cases import Case, save_case
from stages.data.images import DatasetInfo, ImageSet
from stages.interchange import FORMATS, Content
from stages.interchange.delivery import NotVerifiedError
from stages.shards import base_shards, overlay
from stages.shards.config import Shards
from stages.shards.poisons import PoisonSet

needs_ffcv = pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV reads the file back")

Brewline = Callable[..., subprocess.CompletedProcess[str]]
RUN, SIDE, TRAIN, TEST = "made-1234", 64, 4000, 40
PER_SHARD = 1500
"""18 MB of images: the three shards of the train split are long enough to be copied, and their borders are inside."""
POISONED = (0, 3, 1499, 1500, 1502, 2999, 3000, 3999)
FILES = ["about.json", "test.beton", "train.beton"]


def made_run(store: Store, folder: Path, shards: Shards) -> None:
    """A finished run of one case, without its computation: what its steps leave, and its plan."""
    rng, classes = np.random.default_rng(0), ("cat", "dog")
    parts: dict[str, Any] = {}
    for name in ("dataset", "case", "overlay"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", TRAIN), ("test", TEST)):
        labels = np.arange(count, dtype=np.int64) % 2
        images = ImageSet(rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8), labels, np.arange(count))
        parts[split] = [
            base_shards.write_part(
                folder / "dataset", split, index, shards.of(count), images.of(rows), shards, len(classes)
            )
            for index in range(shards.of(count))
            for rows in [np.array(shards.rows(index, count))]
        ]
    info = DatasetInfo("random", classes, (SIDE, SIDE, 3), (0.5,) * 3, (0.25,) * 3)
    base_shards.describe(folder / "dataset", info, parts)
    dataset = base_shards.load(folder / "dataset")
    replaced = dataset.train.of(np.array(POISONED))
    poisons = PoisonSet(replaced.ids, np.asarray(replaced.images) ^ 7, replaced.labels, {})
    overlay.write(poisons, dataset.train, 8, folder / "overlay")
    case = Case(
        name="dog → cat",
        target_class=1,
        intended_class=0,
        poison_class=0,
        target_ids=(1,),
        poison_ids=POISONED,
        seed=0,
    )
    save_case(case, folder / "case")
    plan: list[dict[str, Any]] = []
    for number, (name, stage) in enumerate((("dataset", "prepare"), ("case", "case"), ("overlay", "export"))):
        key = f"{number + 1}" * 64
        draft = Manifest(stage=stage, key=key, version=1, params={}, inputs={}, write_id=new_write_id())
        store.commit(folder / name, draft)
        plan.append({"key": key, "label": name, "stage": stage, "params": {}, "inputs": {}})
    inputs = {"dataset": "1" * 64, "case.0": "2" * 64, "overlay.0": "3" * 64}
    plan.append({"key": "4" * 64, "label": "sum", "stage": "summarize", "params": {}, "inputs": inputs, "variant": ""})
    store.write_run(RUN, "plan.json", json.dumps(plan).encode())


@pytest.fixture
def store(s3_url: str, tmp_path: Path) -> Store:
    """A store in S3 with the run, its base raw in several shards."""
    opened = open_store(s3_url)
    made_run(opened, tmp_path / "made", Shards(format="beton", images_per_shard=PER_SHARD))
    return opened


def out_of(store: Store) -> Objects:
    """Where an export goes."""
    address = parse(store.url)
    return Objects(replace(address, prefix=f"{address.prefix}-out/poisoned"), Patience(deadline=20))


def words(store: str, out: Objects | Path) -> list[str]:
    to = f"s3://{out.address.bucket}/{out.address.prefix}/" if isinstance(out, Objects) else str(out)
    return ["export", RUN, "--case", "0", "--format", "beton", "-o", to, "--store", store]


def names(out: Objects) -> list[str]:
    return [found.name for found in out.names("")]


def export(store: Store, out: Objects, folder: Path, change: Callable[[Base], Base] = lambda base: base) -> Content:
    """What the command does, in this process. change: what becomes of the base before it is copied."""
    source = find(store, RUN, None, 0)
    (folder / "back").mkdir()
    with source.fetched(store, but=".beton") as folders:
        manifest = source.manifest(store, "dataset")
        base = outlined(store, manifest, folders["dataset"], np.array(POISONED))
        content = content_of(folders, False, "")
        made = BucketExport(out.address, change(base), content)
        made.make({}, folder / "back", False, lambda copied, uploaded: None, lambda images: None)
        return content


def stopped(
    server: S3Server, environment: dict[str, str], store: Store, out: Objects, at: str, how: signal.Signals
) -> int:
    """The command, sent a signal when it makes the request `METHOD …at…`, which does not arrive; gives how it ended."""
    method, _, part = at.partition(" ")
    started: list[subprocess.Popen[bytes]] = []

    def choose(request: Request) -> Fault | None:
        if on(method, part)(request):
            started[0].send_signal(how)
            return CUT_BEFORE
        return None

    with FaultyProxy(server.endpoint) as proxy:
        proxy.choose = choose
        url = replace(parse(store.url), endpoint=proxy.endpoint).url
        command = [str(Path(sys.executable).with_name("brewline")), *words(url, out)]
        with subprocess.Popen(command, env=environment) as process:
            started.append(process)
            return process.wait(300)


@pytest.mark.slow
@needs_ffcv
def test_the_bucket_gets_the_very_files_that_a_folder_gets(
    brewline: Brewline,
    environment: dict[str, str],
    s3_server: S3Server,
    s3_environment: dict[str, str],
    store: Store,
    tmp_path: Path,
) -> None:
    """Also where a first try was killed between two files."""
    out, local = out_of(store), tmp_path / "local"
    done = brewline(*words(store.url, local), **s3_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    ended = stopped(s3_server, environment | s3_environment, store, out, "POST test.beton", signal.SIGKILL)
    assert ended == -signal.SIGKILL
    assert names(out) == ["train.beton"], "without about.json it is not complete"
    refused = brewline(*words(store.url, out), **s3_environment)
    assert refused.returncode == 2
    assert "train.beton: is there already; choose another place, or give --overwrite" in refused.stderr
    done = brewline(*words(store.url, out), "--overwrite", **s3_environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{TRAIN + TEST} images, {len(POISONED)} of them poisons; all poisons and 104 other images" in done.stdout
    assert " MB copied by the server, " in done.stdout
    assert names(out) == FILES
    for name in FILES:
        found = out.get(name)
        assert found and found[0] == (local / name).read_bytes(), name


def test_what_is_interrupted_in_the_middle_leaves_nothing(
    environment: dict[str, str], s3_server: S3Server, s3_environment: dict[str, str], store: Store
) -> None:
    out = out_of(store)
    ended = stopped(s3_server, environment | s3_environment, store, out, "PUT partNumber=2", signal.SIGTERM)
    assert ended == 130
    assert not names(out)
    left = s3_server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=out.address.prefix)
    assert not left.get("Uploads")


@pytest.mark.slow
@needs_ffcv
def test_a_base_of_jpegs_gets_its_poisons_on_new_pages(s3_url: str, tmp_path: Path) -> None:
    store = open_store(s3_url)
    made_run(store, tmp_path / "made", Shards(format="beton", jpeg_quality=90, images_per_shard=PER_SHARD))
    out = out_of(store)
    export(store, out, tmp_path)
    with find(store, RUN, None, 0).fetched(store) as folders:
        FORMATS["beton"].write(content_of(folders, False, ""), tmp_path, lambda images: None)
    for name in FILES[1:]:
        found = out.get(name)
        assert found and found[0] == (tmp_path / name).read_bytes(), name


@needs_ffcv
def test_wrong_bytes_of_the_server_are_found_and_nothing_is_left(store: Store, tmp_path: Path) -> None:
    out = out_of(store)

    def swapped(base: Base) -> Base:
        """As if the server took one shard for another of its size."""
        first, second, third = base.shards["train"]
        return replace(base, shards={**base.shards, "train": [second, first, third]})

    with pytest.raises(NotVerifiedError, match="does not read back as it was written; nothing was left"):
        export(store, out, tmp_path, swapped)
    assert not names(out)


def test_a_base_that_cannot_be_copied_is_told(s3_url: str, store: Store, tmp_path: Path) -> None:
    objects = Objects(parse(store.url), Patience(deadline=20))
    source = find(store, RUN, None, 0)
    blob = next(blob for blob in source.manifest(store, "dataset").blobs if blob.name.startswith("test-"))
    objects.put(f"blobs/{blob.sha256}", b"short")
    with pytest.raises(DamagedBlob, match=r"output test-00000-of-00001.beton has 5 bytes, not \d+; run the step again"):
        export(store, out_of(store), tmp_path)
    objects.delete(f"blobs/{blob.sha256}")
    (tmp_path / "again").mkdir()
    with pytest.raises(DamagedBlob, match="is not in the store"):
        export(store, out_of(store), tmp_path / "again")
    arrow = open_store(s3_url.replace("?", "-arrow?"))
    made_run(arrow, tmp_path / "arrow", Shards())
    (tmp_path / "third").mkdir()
    with pytest.raises(InputError, match=r"train-00000-of-00001.arrow: the server makes a .beton out of .beton shards"):
        export(arrow, out_of(arrow), tmp_path / "third")


def test_what_is_in_the_way_is_told(s3_url: str) -> None:
    out = out_of(open_store(s3_url))
    check_target(out.address, overwrite=False)
    out.put("train.beton", b"theirs")
    with pytest.raises(InputError, match=r"out/poisoned/train.beton: is there already"):
        check_target(out.address, overwrite=False)
    check_target(out.address, overwrite=True)
    out.put("mine.txt", b"mine")
    with pytest.raises(InputError, match=r"mine.txt: is no part of an export; choose another place"):
        check_target(out.address, overwrite=True)


def test_a_wrong_place_is_told_before_anything_is_read(tmp_path: Path) -> None:
    """No server is there to be asked."""
    inside = open_store("s3://bucket/mine?endpoint=http://127.0.0.1:9")
    folder = open_store(tmp_path)
    for url, store, form, only_poisons, message in (
        ("s3://bucket/out", inside, "arrow", False, "--format arrow is not made in a bucket.* export to a folder"),
        ("s3://bucket/out", inside, "beton", True, "poisons alone are not made in a bucket"),
        ("s3://key:secret@bucket/out", folder, "beton", False, "--out s3://…@bucket/out: the store"),
        ("s3://bucket/out", folder, "beton", False, "is a folder, and S3 copies from S3 only"),
        ("s3://bucket", inside, "beton", False, "is a whole bucket; name a folder in it, as in s3://bucket/poisoned"),
        ("s3:/bucket/out", inside, "beton", False, "expected s3://bucket/prefix, with two slashes"),
        ("s3://bucket/out?endpoint=https://other", inside, "beton", False, "is not the store's, http://127.0.0.1:9"),
        ("s3://bucket/mine/blobs/out", inside, "beton", False, "is where the store keeps what is its own"),
    ):
        with pytest.raises(InputError, match=message):
            target(url, store, form, only_poisons)
    found = target("s3://other/a/b/?storage_class=STANDARD_IA", inside, "beton", False)
    assert found == Address("other", "a/b", "http://127.0.0.1:9", storage_class="STANDARD_IA")
