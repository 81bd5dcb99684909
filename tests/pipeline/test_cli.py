"""The command as a user runs it: what it prints, its exit codes, and that it says what is wrong and what to do."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tiny_pipeline import Brewline, refused

RATES = {"poison_success", "clean_success", "poisoned_accuracy", "clean_accuracy"}


def test_the_last_line_of_a_run_is_its_result(finished: Any) -> None:
    result = finished.result
    assert set(result) == {"run", "store", "steps", "seconds", "cases", "summary"}
    assert result["store"] == str(finished.store)
    total = result["steps"]["total"]
    assert result["steps"] == {"total": total, "cached": 0, "ran": total, "failed": 0, "blocked": 0}
    assert result["seconds"] > 0
    (case,) = result["cases"]
    assert {"case", "target_class", "poison_class", "success", "clean_success", "brew_loss"} <= set(case)
    assert case["target_class"] != case["poison_class"]
    assert set(result["summary"]) == RATES
    for rate in result["summary"].values():
        assert set(rate) == {"mean", "se", "cases", "victims"}
        assert (rate["cases"], rate["victims"], rate["se"]) == (1, 1, None)
        assert 0 <= rate["mean"] <= 1


def test_without_a_terminal_each_step_is_a_plain_line(finished: Any) -> None:
    total = finished.result["steps"]["total"]
    lines = [line for line in finished.stderr.splitlines() if re.match(r"\[ *\d+/\d+\] ", line)]
    assert [int(line[1:].partition("/")[0]) for line in lines] == list(range(1, total + 1))
    assert "\x1b" not in finished.stderr + finished.stdout


def test_a_second_run_runs_nothing_and_needs_no_ray(
    brewline: Brewline, finished: Any, tiny_file: Path, no_ray: dict[str, str]
) -> None:
    done = brewline("run", tiny_file, "--store", finished.store, "--json", **no_ray)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    total = result["steps"]["total"]
    assert result["steps"] == {"total": total, "cached": total, "ran": 0, "failed": 0, "blocked": 0}
    assert {name: result[name] for name in ("run", "cases", "summary")} == {
        name: finished.result[name] for name in ("run", "cases", "summary")
    }


def test_plan_shows_each_step_and_what_is_there(
    brewline: Brewline, finished: Any, tiny_file: Path, no_ray: dict[str, str]
) -> None:
    done = brewline("plan", tiny_file, "--store", finished.store, "--set", "attack.eps=8", **no_ray)
    assert done.returncode == 0, done.stderr
    total = finished.result["steps"]["total"]
    states = re.findall(r"^[0-9a-f]{12}  (cached|-) +(.+)$", done.stdout, re.MULTILINE)
    assert len(states) == total
    assert {label for state, label in states if state == "cached"} == {
        *(
            "prepare digits",
            "pretrain surrogate 0",
            "case 0",
            "retrain clean victim 0",
            "evaluate case 0 clean victim 0",
        )
    }
    assert f"{total} steps, {total - 5} to run." in done.stdout


def test_status_lists_runs_and_tells_how_far_one_is(brewline: Brewline, copied: Path, finished: Any) -> None:
    run = finished.result["run"]
    assert brewline("status", "--store", copied).stdout.split() == [run]
    rows = {
        line.split()[0]: line.split()[1:] for line in brewline("status", run, "--store", copied).stdout.splitlines()
    }
    assert rows["stage"] == ["done", "running", "failed", "blocked", "left"]
    assert rows["brew"] == ["2", "0", "0", "0", "0"]
    next((copied / "steps" / "brew").glob("*.json")).unlink()
    rows = {
        line.split()[0]: line.split()[1:] for line in brewline("status", run, "--store", copied).stdout.splitlines()
    }
    assert rows["brew"] == ["1", "0", "0", "0", "1"]
    refused(brewline("status", f"{run}x", "--store", copied), f"did you mean '{run}'")


def test_why_shows_one_key_and_compares_two(brewline: Brewline, finished: Any) -> None:
    plan = json.loads((finished.folder / "plan.json").read_text())
    first, second = [step for step in plan if step["stage"] == "brew"]
    one = brewline("why", first["key"][:8], "--store", finished.store)
    assert one.returncode == 0, one.stderr
    assert yaml.safe_load(one.stdout) == {name: first[name] for name in ("stage", "version", "params", "inputs")}
    two = brewline("why", first["key"], second["key"], "--store", finished.store)
    assert two.stdout.splitlines()[1:] == ["params.restart: 0 -> 1"]
    same = brewline("why", first["key"], first["key"], "--store", finished.store)
    assert "the keys are the same" in same.stdout
    refused(brewline("why", "0" * 10, "--store", finished.store), "no key in", "0000000000")
    refused(brewline("why", "xyz!", "--store", finished.store), "expected at least 4")


def test_a_damaged_summary_is_made_again(brewline: Brewline, copied: Path, tiny_file: Path, finished: Any) -> None:
    manifest = json.loads(next((copied / "steps" / "summarize").glob("*.json")).read_text())
    blob = copied / "blobs" / next(b["sha256"] for b in manifest["blobs"] if b["name"] == "summary.json")
    blob.chmod(0o644)
    blob.write_bytes(bytes(blob.stat().st_size))
    done = brewline("run", tiny_file, "--store", copied, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["steps"]["ran"], result["summary"]) == (1, finished.result["summary"])


def test_experiments_lists_what_ships(brewline: Brewline) -> None:
    listed = brewline("experiments").stdout
    folder = Path(__file__).parents[2] / "pipeline" / "experiments"
    assert [line.split()[0] for line in listed.splitlines()] == sorted(file.stem for file in folder.glob("*.yaml"))
    assert all(len(line.split()) > 3 for line in listed.splitlines())


def test_a_wrong_command_line_ends_with_2(brewline: Brewline) -> None:
    refused(brewline("rum"), "No such command")
    refused(brewline("run"), "Missing argument")
    refused(brewline("run", "quickstart", "--stor", "x"), "No such option")
    assert brewline("run", "--help").returncode == 0


def test_bad_input_is_told_before_any_compute(
    brewline: Brewline, tiny_file: Path, tmp_path: Path, no_ray: dict[str, str]
) -> None:
    store, tree = tmp_path / "store", tmp_path / "nothing"
    tree.mkdir()
    explicit = "cases={kind: explicit, cases: [{target_class: 3, intended_class: 4, target_ids: [0]}]}"
    for setting, told in (
        ("attack.epz=8", ["attack: unknown field 'epz', did you mean 'eps'?"]),
        ("attack.budget=0.2", ["budget 0.2", "30 train images"]),
        (explicit, ["target_ids", "expected class"]),
        (f"dataset={{kind: cifar10, root: {tree}, download: false}}", [f"{tree}: does not hold cifar10"]),
    ):
        refused(brewline("run", tiny_file, "--store", store, "--set", setting, **no_ray), *told)
    assert not list(store.glob("steps/*/*.json"))
    refused(brewline("run", "quickstar", "--store", store, **no_ray), "did you mean 'quickstart'?")


def test_a_store_that_cannot_be_written_is_told(brewline: Brewline, tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for store in (tmp_path / "file", tmp_path / "file" / "below", "/proc/brewline"):
        refused(brewline("run", tiny_file, "--store", store), f"store {store}")
    refused(brewline("run", tiny_file, "--store", "ftp://host/store"), "not a folder")


def test_more_cpus_than_there_are_is_told(brewline: Brewline, tiny_file: Path, tmp_path: Path) -> None:
    done = brewline("run", tiny_file, "--store", tmp_path / "store", "--set", "runtime.cpus=4000")
    refused(done, "runtime.cpus", "4000 CPU", "the cluster has")


def test_a_corrupt_image_is_named_and_nothing_is_lost(
    brewline: Brewline, tiny_file: Path, tmp_path: Path, write_ids: Callable[[Path], dict[str, str]]
) -> None:
    rng, root, store = np.random.default_rng(0), tmp_path / "tree", tmp_path / "store"
    for split, label, number in ((s, c, n) for s in ("train", "test") for c in ("cat", "dog") for n in range(4)):
        (root / split / label).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        image.save(root / split / label / f"{number}.jpg")
    broken = root / "train" / "dog" / "2.jpg"
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2] + bytes(len(good) - len(good) // 2))
    dataset = f"dataset={{kind: image-folder, name: pets, size: 16, root: {root}}}"
    run = ("run", tiny_file, "--store", store, "--json", "--set", dataset, "--set", "attack.budget=0.25")
    done = brewline(*run)
    refused(done, str(broken), "failed: shard train 0", "To resume: ", "brewline run")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"]["failed"] == 1
    assert result["steps"]["blocked"] == result["steps"]["total"] - 2, "the test split's shard is whole"
    assert (result["cases"], result["summary"]) == ([], None)
    log = Path(re.findall(r"log: (.+)", done.stdout)[0])
    assert "Traceback" in log.read_text()
    broken.write_bytes(good)
    mended = brewline(*run)
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert len(write_ids(store)) == result["steps"]["total"]


def test_a_failed_step_ends_with_1_and_tells_how_to_resume(
    brewline: Brewline, finished: Any, copied: Path, tiny_file: Path
) -> None:
    done = brewline("run", tiny_file, "--store", copied, "--json", "--set", "victims.training.learning_rate=1e30")
    assert done.returncode == 1, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["steps"]["failed"], result["steps"]["ran"]) == (2, 0)
    assert "failed: retrain clean victim 0" in done.stdout
    assert "why: FloatingPointError" in done.stdout
    assert "brewline run" in done.stdout.partition("To resume: ")[2]


def test_a_terminal_sees_one_line_a_stage(
    environment: dict[str, str], copied: Path, tiny_file: Path, finished: Any
) -> None:
    for manifest in copied.glob("steps/*/*.json"):
        if manifest.parent.name in ("select", "summarize"):
            manifest.unlink()
    command = Path(sys.executable).with_name("brewline")
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [str(command), "run", str(tiny_file), "--store", str(copied)],
        stdout=follower,
        stderr=follower,
        stdin=follower,
        env=environment | {"TERM": "xterm", "COLUMNS": "110", "LINES": "40"},
    )
    os.close(follower)
    shown, end = b"", time.monotonic() + 120
    while time.monotonic() < end:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the terminal is closed: the command has ended
            break
        shown += chunk
    os.close(leader)
    assert process.wait(10) == 0, shown.decode()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")
    final = text[text.rindex("prepare ") :]
    stages = [line.split()[0] for line in final.splitlines() if re.search(r" \d+/\d+", line)]
    assert stages == ["prepare", "pretrain", "case", "brew", "select", "export", "retrain", "evaluate", "summarize"]
    assert not re.search(r"^\[ *\d+/\d+\]", text, re.MULTILINE)
    assert "0 failed" in text
