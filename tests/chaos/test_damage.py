"""What disks do: outputs that go missing, are cut short or have a bit flipped, and disks that are full."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.invariants import one_manifest_a_key, same_content
from chaos.stores import KINDS, Bucket, Folder, blob_of, commit, draft, fetched, key_of
from chaos.work import Journal, jobs, undisturbed, work
from faults import INJECTED
from pipeline.store import StoreError, open_store

NOISE = bytes(range(256)) * 400  # more than fits into the small disk with another of its kind


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Folder | Bucket:
    """An empty store of each kind."""
    return KINDS[request.param](request, tmp_path / "kind")


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[Folder, str], None]] = {
    "missing": lambda kind, name: kind.delete(name),
    "truncated": lambda kind, name: kind.replace(name, kind.get(name)[:-1]),
    "one bit": lambda kind, name: kind.replace(name, flip(kind.get(name))),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("output", ["large", pytest.param("shared", marks=pytest.mark.chaos)])
def test_a_damaged_output_is_made_again_when_it_is_needed(
    kind: Folder, tmp_path: Path, damage: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, plan = Journal(tmp_path / "journal"), jobs(4)
    first = work(kind.store, plan[:2], journal)
    before = journal.computed()
    DAMAGES[damage](kind, blob_of(first[0], output))
    INJECTED[f"output {damage}"] += 1
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(tmp_path / "another node"))
    work(kind.store, plan, journal)
    one_manifest_a_key(kind.store)
    same_content(kind.store, undisturbed(tmp_path, plan))
    again = {key: count - before[key] for key, count in journal.computed().items() if key in before}
    if output == "large":
        assert again == {plan[0].key: 1, plan[1].key: 0}
    else:  # a file of both: each is found damaged, or whole since the other's repair
        assert sum(again.values()) in (1, 2)


def test_a_damaged_manifest_is_never_taken_for_a_result(kind: Folder, tmp_path: Path) -> None:
    journal, plan = Journal(tmp_path / "journal"), jobs(3, 3000)
    work(kind.store, plan[:2], journal)
    name = f"steps/brew/{plan[1].key}.json"
    whole = kind.get(name)
    kind.replace(name, whole[: len(whole) // 2])
    INJECTED["manifest truncated"] += 1
    with pytest.raises(TimeoutError) as caught:
        work(kind.store, plan, journal, seconds=0.5)
    assert "Nothing was deleted" in str(caught.value.__cause__)
    assert kind.get(name) == whole[: len(whole) // 2]
    kind.replace(name, whole)
    work(kind.store, plan, journal)
    same_content(kind.store, undisturbed(tmp_path, plan))
    assert journal.computed_again() == []


def test_a_folder_store_on_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(small_disk / "store")
    kept = commit(store, draft(key_of(1)), {"noise": NOISE})
    with pytest.raises((StoreError, OSError)) as caught:
        commit(store, draft(key_of(2)), {"noise": flip(NOISE), "more": NOISE[1:]})
    INJECTED["disk full"] += 1
    assert "No space left" in str(caught.value) or "disk is full" in str(caught.value)
    one_manifest_a_key(store)
    assert store.read("brew", key_of(2)) is None
    assert fetched(store, kept, tmp_path / "kept") == {"noise": NOISE}
    store.clear_scratch(key_of(2))
    later = commit(store, draft(key_of(2)), {"noise": b"small"})
    one_manifest_a_key(store, [kept, later])


def test_a_node_s_cache_on_a_full_disk_loses_nothing(
    small_disk: Path, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3_url)
    outputs = [{"noise": NOISE[number:]} for number in range(4)]
    steps = [commit(store, draft(key_of(number)), output) for number, output in enumerate(outputs)]
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(small_disk / "node"))
    monkeypatch.setenv("BREWLINE_NODE_CACHE_GB", "1")
    for number, (step, output) in enumerate(zip(steps, outputs, strict=True)):
        assert fetched(store, step, tmp_path / "one" / str(number)) == output
        shutil.rmtree(tmp_path / "one")  # what nobody reads any more makes room
    fetched(store, steps[0], tmp_path / "held 0")
    fetched(store, steps[1], tmp_path / "held 1")
    with pytest.raises(StoreError, match="the disk is full"):
        store.fetch(steps[2], tmp_path / "held 2")
    INJECTED["disk full"] += 1
    for number in (0, 1):
        assert (tmp_path / f"held {number}" / "noise").read_bytes() == outputs[number]["noise"]
    shutil.rmtree(tmp_path / "held 0")
    shutil.rmtree(tmp_path / "held 2")
    assert fetched(store, steps[2], tmp_path / "held 3") == outputs[2]
    one_manifest_a_key(store, steps)


def test_an_attempt_on_a_full_node_commits_nothing(
    small_disk: Path, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(small_disk / "node"))
    store = open_store(s3_url)
    with pytest.raises(OSError, match="No space left"):
        commit(store, draft(key_of(1)), {"large": NOISE * 3})
    INJECTED["disk full"] += 1
    assert list(store.manifests()) == []
    monkeypatch.setenv("BREWLINE_NODE_CACHE", str(tmp_path / "node"))
    one_manifest_a_key(store, [commit(store, draft(key_of(1)), {"large": NOISE * 3})])
