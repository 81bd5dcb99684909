"""`brewline step`: one stage on folders, for who builds on brewline without its pipeline."""

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tiny_pipeline import Brewline, refused


def test_a_stage_runs_on_folders_without_ray_and_without_a_store(
    brewline: Brewline, tmp_path: Path, no_ray: dict[str, str]
) -> None:
    params, out = tmp_path / "params.yaml", tmp_path / "out"
    params.write_text("dataset: {kind: digits, per_class: 20}\n")
    done = brewline("step", "prepare", "--params", params, "--out", out, "--runtime", "cpus=1", **no_ray)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train_images"] == 200
    assert any(out.iterdir())
    overlay = brewline("step", "export", "--out", tmp_path / "x", "--input", f"dataset={out}", **no_ray)
    refused(overlay, "eps", "Field required")
    refused(brewline("step", "prepair", "--out", out), "did you mean 'prepare'")
    refused(brewline("step", "prepare", "--out", out, "--params", tmp_path / "absent.yaml"), "absent.yaml")
    refused(brewline("step", "prepare", "--out", out, "--input", "dataset"), "expected NAME=VALUE")
    refused(brewline("step", "prepare", "--out", out, "--input", "dataset=/absent"), "no such folder")
    refused(brewline("step", "prepare", "--out", out, "--params", params, "--runtime", "cpu=1"), "did you mean 'cpus'")


def test_a_stage_on_folders_goes_on_from_a_checkpoint_of_its_own_params_only(
    tmp_path: Path, brewline: Brewline
) -> None:
    dataset, params, out = tmp_path / "dataset", tmp_path / "params.yaml", tmp_path / "out"
    params.write_text("dataset: {kind: digits, per_class: 20}\n")
    assert brewline("step", "prepare", "--params", params, "--out", dataset).returncode == 0
    words = ("step", "pretrain", "--params", params, "--input", f"dataset={dataset}", "--out", out)
    training = {"epochs": 100_000, "learning_rate": 0.01, "augmentation": {"flip": False, "pad": 1}}
    fields = {"network": {"name": "convnet", "depth": 3, "width": 4}, "training": training, "seed": 0}
    params.write_text(yaml.safe_dump(fields))
    often = (str(Path(sys.executable).with_name("brewline")), *map(str, words), "--runtime", "checkpoint_seconds=0")
    process = subprocess.Popen(often, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(out.glob(".checkpoint-*/checkpoint.safetensors")) and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(out.glob(".checkpoint-*")), "no checkpoint was written"
    training["epochs"] = 2
    params.write_text(yaml.safe_dump(fields))
    done = brewline(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split()[0] == "1/2", "other params begin anew"
    refused(brewline("step", "pretrain", "--params", params, "--out", out), "the stage needs --input dataset=FOLDER")
    refused(brewline("step", "select", "--out", out), "the stage needs inputs brew.0")
