"""What every kind of store promises, tried on real storage."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from chaos.stores import Folder, blob_of, commit, draft, fetched, key_of
from pipeline.store import LEASE_SECONDS, DamagedBlob, Manifest, StoreError, open_store
from pipeline.store.lease import this_process
from stages.config import InputError

OUTPUTS = {"poisons/images.npy": b"\x00\x01\x02" * 1000, "poisons/deep/er/ids.npy": b"12345678", "empty": b""}


def test_round_trip(kind: Folder, tmp_path: Path) -> None:
    store, wanted = kind.store, draft(key_of(1), metrics={"objective": 0.25}, provenance={"host": "here"})
    store.probe()
    assert store.read("brew", wanted.key) is None
    committed = commit(store, wanted, OUTPUTS)
    assert committed == wanted.model_copy(update={"blobs": committed.blobs})
    assert {blob.name: (blob.size, blob.sha256) for blob in committed.blobs} == {
        name: (len(data), sha256(data).hexdigest()) for name, data in OUTPUTS.items()
    }
    again = open_store(store.url)
    assert again.read("brew", wanted.key) == committed
    assert again.missing(committed) == []
    assert again.verify(committed) == []
    assert fetched(again, committed, tmp_path / "inputs") == OUTPUTS
    again.fetch(committed, tmp_path / "inputs")  # an attempt that was interrupted fetches again


def test_a_step_may_leave_nothing_but_metrics(kind: Folder, tmp_path: Path) -> None:
    committed = commit(kind.store, draft(key_of(1), "evaluate", metrics={"success": 1.0}), {})
    assert kind.store.read("evaluate", key_of(1)) == committed
    assert fetched(kind.store, committed, tmp_path / "inputs") == {}


def test_the_same_content_is_kept_once(kind: Folder) -> None:
    for step in range(3):
        commit(kind.store, draft(key_of(step)), {"shard": b"same", "copy": b"same"})
    assert [name for name in kind.names() if name.startswith("blobs/")] == [f"blobs/{sha256(b'same').hexdigest()}"]


@pytest.mark.parametrize("damage", ["absent", "truncated", "flipped"])
@pytest.mark.parametrize("rerun", ["same bytes", "other bytes"])
def test_damage_is_found_and_repaired(kind: Folder, tmp_path: Path, damage: str, rerun: str) -> None:
    store, key, name = kind.store, key_of(1), "poisons/images.npy"
    first = commit(store, draft(key), OUTPUTS)
    blob, data = blob_of(first, name), OUTPUTS[name]
    kind.delete(blob)
    if damage != "absent":
        kind.put(blob, data[:-1] if damage == "truncated" else b"\xff" + data[1:])

    assert [found.name for found in store.missing(first)] == ([] if damage == "flipped" else [name])
    assert len(store.verify(first)) == 1
    assert name in store.verify(first)[0]
    with pytest.raises(DamagedBlob) as caught:
        store.fetch(first, tmp_path / "damaged")
    assert (caught.value.stage, caught.value.key, caught.value.name) == ("brew", key, name)

    outputs = OUTPUTS if rerun == "same bytes" else OUTPUTS | {name: b"not deterministic"}
    second = commit(store, draft(key), outputs, again=damage == "flipped")  # as the runner does once a fetch failed
    assert (second == first) == (rerun == "same bytes")
    assert store.read("brew", key) == second
    assert store.verify(second) == []
    assert fetched(store, second, tmp_path / "repaired") == outputs


def test_the_first_commit_counts(kind: Folder) -> None:
    first = commit(kind.store, draft(key_of(1)), OUTPUTS)
    assert commit(kind.store, draft(key_of(1)), {"other": b"other"}) == first
    assert kind.store.read("brew", key_of(1)) == first


def test_a_commit_that_is_repeated_is_its_own(kind: Folder) -> None:
    wanted = draft(key_of(1))
    assert commit(kind.store, wanted, OUTPUTS) == commit(kind.store, wanted, OUTPUTS)


@pytest.mark.parametrize("data", [b"", b'{"schema_version": 1, "sta', b'{"schema_version": 99}'])
def test_an_unreadable_manifest_stops_everything_and_is_left_alone(kind: Folder, data: bytes) -> None:
    store, name = kind.store, f"steps/brew/{key_of(1)}.json"
    kind.put(name, data)
    for use in (
        lambda: store.read("brew", key_of(1)),
        lambda: commit(store, draft(key_of(1)), OUTPUTS),
        lambda: list(store.manifests()),
    ):
        with pytest.raises(StoreError, match=rf"{key_of(1)}\.json .*Nothing was deleted"):
            use()
    assert kind.get(name) == data


RACER = """
import sys, time
from pathlib import Path
from pipeline.store import Manifest, new_write_id, open_store
store, go, me = open_store(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
drafts = [Manifest(stage="brew", key=key, version=1, params={}, inputs={}, write_id=new_write_id())
          for key in sys.argv[4:]]
for draft in drafts:
    folder = store.scratch(draft.key) / draft.write_id
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/same").write_bytes(b"same" + draft.key.encode())
    (folder / "other").write_bytes(f"{me} {draft.key}".encode())
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
for draft in drafts:
    print(store.commit(store.scratch(draft.key) / draft.write_id, draft).to_json().decode().replace("\\n", ""))
"""


def race(kind: Folder, go: Path, keys: list[str], racers: int = 3) -> list[list[Manifest]]:
    """What each of several processes got back that commit the same keys at the same time."""
    command = [sys.executable, "-c", RACER, kind.store.url, str(go)]
    processes = [
        subprocess.Popen([*command, str(racer), *keys], stdout=subprocess.PIPE, text=True) for racer in range(racers)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    go.touch()
    answers = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0] * racers
    return [
        [Manifest.from_json(line.encode(), "answer", "brew", key) for line, key in zip(lines, keys, strict=True)]
        for lines in answers
    ]


def test_racing_commits_agree(kind: Folder, tmp_path: Path) -> None:
    keys = [key_of(step) for step in range(20)]
    answers = race(kind, tmp_path / "go", keys)
    assert answers.count(answers[0]) == len(answers)
    assert list(kind.store.manifests()) == sorted(answers[0], key=lambda manifest: manifest.key)
    assert [kind.store.verify(manifest) for manifest in answers[0]] == [[]] * len(keys)


def test_racing_repairs_agree(kind: Folder, tmp_path: Path) -> None:
    keys = [key_of(step) for step in range(20)]
    for key in keys:
        damaged = commit(kind.store, draft(key), {"lost": key.encode()})
        kind.delete(blob_of(damaged, "lost"))
    answers = race(kind, tmp_path / "go", keys)
    assert answers.count(answers[0]) == len(answers)
    assert [kind.store.read("brew", key) for key in keys] == answers[0]
    assert [kind.store.verify(manifest) for manifest in answers[0]] == [[]] * len(keys)


def test_an_attempt_whose_scratch_was_cleared_gets_the_manifest_that_counts(kind: Folder) -> None:
    slow = draft(key_of(1))
    folder = kind.store.scratch(slow.key) / slow.write_id
    folder.mkdir()
    quick = commit(kind.store, draft(key_of(1)), OUTPUTS)
    assert not folder.exists()
    assert kind.store.commit(folder, slow) == quick
    with pytest.raises(StoreError, match="is gone"):
        kind.store.commit(folder, draft(key_of(2)))


def test_scratch_stays_until_it_is_cleared(kind: Folder) -> None:
    checkpoint = kind.store.scratch(key_of(1)) / "checkpoint"
    checkpoint.write_bytes(b"step 100")
    assert (open_store(kind.store.url).scratch(key_of(1)) / "checkpoint").read_bytes() == b"step 100"
    kind.store.clear_scratch(key_of(1))
    kind.store.clear_scratch(key_of(1))
    assert list(kind.store.scratch(key_of(1)).iterdir()) == []
    for wrong in ("", "..", key_of(1)[:12]):
        with pytest.raises(ValueError, match="is no key"):
            kind.store.clear_scratch(wrong)


def test_find_list_and_remove(kind: Folder) -> None:
    store, keys = kind.store, ["abcd" + "0" * 60, "abcd" + "1" * 60, "abce" + "0" * 60]
    brewed = [commit(store, draft(key), {"a": b"a"}) for key in keys]
    trained = commit(store, draft(keys[0], "retrain"), {"a": b"a"})
    assert store.find("abcd") == [("brew", keys[0]), ("brew", keys[1]), ("retrain", keys[0])]
    assert store.find(keys[1]) == [("brew", keys[1])]
    assert store.find("ffff") == []
    for wrong in ("abc", "", "ABCD", "../..", "abc*", "a" * 65):
        with pytest.raises(InputError, match="at least 4"):
            store.find(wrong)
    assert list(store.manifests()) == [*brewed, trained]
    assert list(store.manifests("retrain")) == [trained]
    assert (store.keys("brew"), store.keys("select")) == (set(keys), set())
    assert list(store.manifests("select")) == []
    assert store.remove("brew", keys[0])
    assert not store.remove("brew", keys[0])
    assert store.read("brew", keys[0]) is None
    assert store.verify(trained) == []  # shares its blob with the step that was removed


def test_what_others_put_beside_the_manifests_is_passed_over(kind: Folder) -> None:
    committed = commit(kind.store, draft(key_of(1)), {"a": b"a"})
    for name in ("steps/readme.txt", "steps/brew/x.json", "steps/brew/abcd.json", f"steps/brew/{key_of(2)}.json.orig"):
        kind.put(name, b"a note")
    assert list(kind.store.manifests()) == list(kind.store.manifests("brew")) == [committed]
    assert kind.store.keys("brew") == {key_of(1)}
    assert kind.store.find(key_of(1)[:4]) == [("brew", key_of(1))]
    assert kind.store.find("abcd") == []


def test_runs(kind: Folder) -> None:
    store = kind.store
    assert store.runs() == []
    assert store.read_run("first", "experiment.yaml") is None
    store.write_run("first", "experiment.yaml", b"old")
    store.write_run("first", "experiment.yaml", b"new")
    store.append_run("second", "events.jsonl", '{"event": "began"}\n{"event": "started"}\n')
    store.append_run("second", "events.jsonl", '{"event": "δ"}\n')
    assert store.runs() == ["first", "second"]
    assert store.read_run("first", "experiment.yaml") == b"new"
    assert store.read_run("second", "events.jsonl") == (
        '{"event": "began"}\n{"event": "started"}\n{"event": "δ"}\n'.encode()
    )
    assert {name for name in kind.names() if name.startswith("runs/")} == {
        "runs/first/experiment.yaml",
        "runs/second/events.jsonl",
    }
    with pytest.raises(ValueError, match="line break"):
        store.append_run("second", "events.jsonl", "a line\nand half a line")
    age = store.age_run("second", "events.jsonl")
    assert age is not None
    assert 0 <= age < 60
    assert store.age_run("third", "events.jsonl") is None
    for run, name in (("..", "a"), ("a", "../b"), ("", "a"), ("a/b", "c"), (".hidden", "a")):
        with pytest.raises(InputError, match="run name"):
            store.write_run(run, name, b"")


def test_a_lease_is_one_owners_until_it_is_given_back(kind: Folder) -> None:
    store, key = kind.store, key_of(1)
    assert store.acquire(key, "first") == 0
    assert store.acquire(key, "first") == 0
    assert LEASE_SECONDS - 10 < store.acquire(key, "second") <= LEASE_SECONDS
    store.release(key, "second")
    assert store.acquire(key, "second") > 0
    store.release(key, "first")
    assert store.acquire(key, "second") == 0


def test_a_lease_of_a_process_that_died_here_is_free_at_once(kind: Folder) -> None:
    name = "from pipeline.store.lease import this_process; print(this_process())"
    owner = subprocess.run([sys.executable, "-c", name], capture_output=True, text=True, check=True).stdout.strip()
    assert kind.store.acquire(key_of(1), owner) == 0
    assert kind.store.acquire(key_of(1), this_process()) == 0
    assert kind.store.acquire(key_of(1), "of another machine") > 0


def test_scratch_files_are_found_again(kind: Folder) -> None:
    store, key = kind.store, key_of(1)
    store.pull_scratch(key, "checkpoint")
    assert list(store.scratch(key).iterdir()) == []
    (store.scratch(key) / "checkpoint").write_bytes(b"step 100")
    assert store.push_scratch(key, "checkpoint").endswith(f"{key}/checkpoint")
    store.pull_scratch(key, "checkpoint")
    assert (store.scratch(key) / "checkpoint").read_bytes() == b"step 100"


def test_many_steps_are_looked_at_at_once(kind: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    shared, contents = b"the base", {step: str(step).encode() for step in range(1000)}
    objects = {f"blobs/{sha256(data).hexdigest()}": data for data in (shared, *contents.values())}
    for step, own in contents.items():
        blobs = [
            {"name": name, "size": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in (("base", shared), ("own", own))
        ]
        objects[f"steps/brew/{key_of(step)}.json"] = draft(key_of(step), blobs=blobs).to_json()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: kind.put(*item), objects.items()))
    kind.delete(f"blobs/{sha256(contents[7]).hexdigest()}")
    kind.delete(f"steps/brew/{key_of(8)}.json")
    asked = [("brew", key_of(step)) for step in (*contents, "never run")] + [("retrain", key_of(1))]

    started = time.perf_counter()
    found = {manifest.key: missing for manifest, missing in kind.store.look(asked)}
    seconds = time.perf_counter() - started
    assert found.keys() == {key_of(step) for step in contents} - {key_of(8)}
    assert {key: [blob.name for blob in missing] for key, missing in found.items() if missing} == {key_of(7): ["own"]}
    assert seconds < 60
    with capsys.disabled():
        print(f"\n1,000 hits of 2 blobs: {seconds:.2f} s")
