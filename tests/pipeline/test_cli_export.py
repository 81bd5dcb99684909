"""Poisons leave the store for other tools, and come back as poisons that somebody else made: the very same."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.results import add
from pipeline.store import Store, open_store
from stages.interchange import FORMATS
from stages.shards import base_shards, overlay, poisons

Brewline = Callable[..., subprocess.CompletedProcess[str]]


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for text in told:
        assert text in done.stderr, done.stderr


def output(store: Store, stage: str, folder: Path) -> Path:
    """The output of the one step of a stage."""
    (manifest,) = store.manifests(stage)
    store.fetch(manifest, folder)
    return folder


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "beton"])  # digits have no colour
def test_a_case_is_exported_with_what_it_is(brewline: Brewline, finished: Any, tmp_path: Path, name: str) -> None:
    run = finished.result["run"]
    done = brewline("export", run, "--case", 0, "--format", name, "-o", tmp_path / "out", "--store", finished.store)
    assert done.returncode == 0, done.stdout + done.stderr
    images = 15 if name == "benchmark" else 400
    assert f"{tmp_path / 'out'}: {images} " in done.stdout and f"{images}/{images}" in done.stderr
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    plan = {step["label"]: step["key"] for step in json.loads((finished.folder / "plan.json").read_text())}
    labels = {"dataset": "prepare digits", "case": "case 0", "overlay": "export case 0"}
    assert {role: step["key"] for role, step in about["steps"].items()} == {r: plan[la] for r, la in labels.items()}
    store = open_store(str(finished.store))
    theirs = poisons.load(output(store, "export", tmp_path / "overlay"), overlay.STEM)
    assert about["poisons_sha256"] == theirs.sha256()
    assert (about["run"], about["format"], about["N"], about["P"], about["eps"]) == (run, name, 300, 15, 32)
    assert about["prepared_with"]["dataset"]["per_class"] == 30
    (case,) = finished.result["cases"]
    assert about["targets"] == {
        "ids": case["target_ids"],
        "true_class": case["target_class"],
        "intended_class": case["intended_class"],
    }
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"


@pytest.mark.parametrize(
    "name", ["arrow", *(pytest.param(n, marks=pytest.mark.slow) for n in ("image-folder", "benchmark"))]
)
def test_what_was_exported_comes_back_as_the_same(
    brewline: Brewline, finished: Any, tiny: dict[str, Any], tmp_path: Path, name: str
) -> None:
    store, out = shutil.copytree(finished.store, tmp_path / "store"), tmp_path / "poisons"
    common = ("--case", 0, "--format", name, "--only-poisons", "--store", store)
    done = brewline("export", finished.result["run"], *common, "-o", out)
    assert done.returncode == 0, done.stderr
    tiny["attack"] = {"kind": "external", "format": name, "folders": [str(out)], "eps": 32, "budget": 0.05}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(tiny))
    done = brewline("run", tmp_path / "theirs.yaml", "--store", store, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"] == {"total": 8, "cached": 4, "ran": 4, "failed": 0, "blocked": 0}
    assert result["summary"] == finished.result["summary"]
    (case,), (ours,) = result["cases"], finished.result["cases"]
    assert case == ours | {"brew_loss": None}
    opened = open_store(str(store))
    first, second = (manifest.metrics for manifest in opened.manifests("export"))
    assert first == second
    folder = store / "runs" / result["run"]
    assert not (folder / "brew-loss.png").exists() and (folder / "case-00.png").exists()
    kept = json.loads(add(opened, [result["run"]], "theirs", tmp_path).read_text())
    (held,) = kept["variants"][""]["experiment"]["attack"]["folders"]
    assert list(held) == ["sha256"], "a result names no folder of a machine"
    again = brewline("run", tmp_path / "theirs.yaml", "--store", store, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["steps"]["cached"] == 8


def test_poisons_that_break_eps_or_miss_are_told(
    brewline: Brewline, finished: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    store, out = shutil.copytree(finished.store, tmp_path / "store"), tmp_path / "poisons"
    options = ("--case", 0, "--format", "benchmark", "--store", store)
    assert brewline("export", finished.result["run"], *options, "-o", out).returncode == 0
    tiny["attack"] = {"kind": "external", "format": "benchmark", "folders": [str(out)], "eps": 31, "budget": 0.05}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(tiny))
    done = brewline("run", tmp_path / "theirs.yaml", "--store", store)
    assert done.returncode == 2
    assert "failed: export case 0" in done.stdout and "by 32/255, more than eps = 31/255" in done.stdout
    (out / "poisons.pickle").unlink()
    refused(brewline("run", tmp_path / "theirs.yaml", "--store", store), "poisons.pickle: there is no such file")


def test_a_stage_runs_on_a_folder_without_a_store(brewline: Brewline, finished: Any, tmp_path: Path) -> None:
    store, out = open_store(str(finished.store)), tmp_path / "poisons"
    options = ("--case", 0, "--format", "arrow", "--store", finished.store)
    assert brewline("export", finished.result["run"], *options, "-o", out).returncode == 0
    source = {"format": "arrow", "folder": str(out), "sha256": "0" * 64}
    params = {"eps": 32, "made_elsewhere": source}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    folders = {
        role: output(store, stage, tmp_path / role) for role, stage in (("dataset", "prepare"), ("case", "case"))
    }
    inputs = [word for role, folder in folders.items() for word in ("--input", f"{role}={folder}")]
    command = ("step", "export", "--params", tmp_path / "params.yaml", "--out", tmp_path / "out", *inputs)
    told = brewline(*command)
    refused(told, "the sha256 of its poisons is ", "expected 0000")
    source["sha256"] = told.stderr.partition("its poisons is ")[2][:64]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = brewline(*command)
    assert done.returncode == 0, done.stderr
    poisoned = overlay.apply(base_shards.load(folders["dataset"]), tmp_path / "out")
    changed = (np.asarray(poisoned.train.images) != np.asarray(base_shards.load(folders["dataset"]).train.images)).any(
        (1, 2, 3)
    )
    assert changed.sum() == json.loads(done.stdout)["poisons"] == 15


def test_what_cannot_be_exported_is_told(brewline: Brewline, finished: Any, tmp_path: Path) -> None:
    run, out = finished.result["run"], tmp_path / "out"

    def export(name: str, case: int = 0, form: str = "arrow", *more: object) -> subprocess.CompletedProcess[str]:
        store = ("--store", finished.store) if "--store" not in more else ()
        return brewline("export", name, "--case", case, "--format", form, "-o", out, *store, *more)

    refused(export(f"{run}x"), f"no run '{run}x'", f"did you mean '{run}'?")
    refused(export(run, 1), f"--case 1: run {run} has cases 0 to 0")
    refused(export(run, -1), "has cases 0 to 0")
    refused(export(run, 0, "parket"), "--format parket: no such format; did you mean 'parquet'?")
    refused(export(run, 0, "arrow", "--variant", "a"), "has no variant 'a'; it has none, so leave --variant out")
    refused(export(run, 0, "arrow", "--prefix", "gs://a"), "--prefix is for the format automl")
    refused(export(run, 0, "beton"), "FFCV's files hold colour images, and digits has 1 channel")
    refused(export(run, 0, "automl", "--prefix", "s3://a"), "expected gs://BUCKET/FOLDER")
    (tmp_path / "store").mkdir()
    copy = shutil.copytree(finished.store, tmp_path / "store" / "copy")
    next((copy / "steps" / "export").glob("*.json")).unlink()
    refused(export(run, 0, "arrow", "--store", copy), f"run {run}: 'export case 0' is not done")
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("kept")
    refused(export(run), f"{out}: is not empty; choose another folder")
    assert [file.name for file in out.iterdir()] == ["mine"]


def test_a_variant_must_be_chosen_and_named_right(
    brewline: Brewline, finished: Any, tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Of a run that was only planned: what is asked is checked before what is done."""
    store = shutil.copytree(finished.store, tmp_path / "store")
    plan = json.loads((finished.folder / "plan.json").read_text())
    summary = next(step for step in plan if "variant" in step)
    for name in ("eps-8", "eps-32"):
        plan.append(summary | {"variant": name, "key": ("a" if name == "eps-8" else "b") * 64})
    plan.remove(summary)
    (store / "runs" / "two-variants").mkdir()
    (store / "runs" / "two-variants" / "plan.json").write_text(json.dumps(plan))

    def export(*more: object) -> subprocess.CompletedProcess[str]:
        common = ("export", "two-variants", "--case", 0, "--format", "arrow", "--store", store)
        return brewline(*common, "-o", tmp_path / "out", *more)

    refused(export(), "has several variants; choose one of eps-8, eps-32 with --variant")
    refused(export("--variant", "eps-33"), "no variant 'eps-33'; did you mean 'eps-32'?")
    assert export("--variant", "eps-8").returncode == 0
    assert json.loads((tmp_path / "out" / "about.json").read_text())["variant"] == "eps-8"


def test_every_format_is_offered(brewline: Brewline) -> None:
    text = brewline("export", "--help", COLUMNS="300").stdout
    assert f"One of {', '.join(FORMATS)}." in text
    assert {"image-folder", "parquet", "arrow", "beton", "benchmark", "automl"} == set(FORMATS)
