"""What a poisoned dataset costs: its poisons, whatever the size of the base, where others write it all anew."""

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from photos import SIDE, write_shards

from stages import export
from stages.data.images import ImageSet
from stages.data.pixels import Pixels
from stages.shards import base_shards, poisons
from stages.shards.config import Shards
from stages.stage import Checkpoint, Context, Runtime

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

SMALL, LARGE, MANY = 10_000, 40_000, 1281
PAPER = round(0.001 * LARGE)

WRITE_WITH_FFCV = """
import json, sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

class Noise:
    def __init__(self, count, side):
        self.count, self.block = count, np.random.default_rng(0).integers(0, 256, (64, side, side, 3), np.uint8)
    def __len__(self):
        return self.count
    def __getitem__(self, row):
        return self.block[row % 64], row % 4

count, side, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
DatasetWriter(file, fields, num_workers=2).from_indexed_dataset(Noise(count, side))
"""


def base_of(count: int, folder: Path, shards: Shards) -> Path:
    """A base of noise, 64 images over and over."""
    block = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
    addresses = block.ctypes.data + np.arange(count) % 64 * block.strides[0]
    images = Pixels(addresses, block.shape[1:], (block,))
    return write_shards(ImageSet(images, np.sort(np.arange(count) % 4), np.arange(count)), folder, shards)


def seconds_of_export(base: Path, count: int, folder: Path) -> tuple[float, int]:
    """Seconds that stage `export` takes for `count` poisons, and the bytes it writes."""
    folder.mkdir()
    train = base_shards.load(base).train
    chosen = train.of(np.flatnonzero(train.labels == 1)[:count])
    changed = np.where(chosen.images < 128, chosen.images + 8, chosen.images - 8).astype(np.uint8)
    poisons.save(poisons.PoisonSet(chosen.ids, changed, chosen.labels, {"brew_loss": 0.1}), folder)
    out = folder / "out"
    out.mkdir()
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(folder / "checkpoint"))
    began = time.perf_counter()
    export.run(export.Params(eps=8), {"dataset": base, "poisons": folder}, out, ctx)
    seconds = time.perf_counter() - began
    return seconds, sum(file.stat().st_size for file in out.iterdir())


@pytest.mark.parametrize("form", ["arrow", "beton"])
def test_a_poisoned_dataset_costs_its_poisons(form: str, tmp_path: Path, figures: "Figures") -> None:
    pytest.importorskip("ffcv")
    shards = Shards.model_validate({"format": form})
    bases = {count: base_of(count, tmp_path / f"base{count}", shards) for count in (SMALL, LARGE)}
    times: dict[tuple[int, int], list[float]] = {(n, p): [] for n in bases for p in (PAPER, MANY)}
    written: dict[tuple[int, int], int] = {}
    for turn in range(figures.rounds):
        for (n, p), found in times.items():
            seconds, written[n, p] = seconds_of_export(bases[n], p, tmp_path / f"{n}-{p}-{turn}")
            found.append(seconds)
    for (n, p), found in times.items():
        figures.ratio(f"export, {form}, N = {n}, seconds", "224x224", p, None, found)
        figures.ratio(f"export, {form}, N = {n}, MB written", "224x224", p, None, [written[n, p] / 1e6])
    growth = np.array(times[LARGE, MANY]) / np.array(times[SMALL, MANY])
    what = f"export, {form}, time at N = {LARGE} / N = {SMALL}"
    grown = figures.ratio(what, "224x224", MANY, None, growth, at_most=1.25)
    bytes_grown = figures.ratio(
        f"export, {form}, bytes at N = {LARGE} / N = {SMALL}",
        "224x224",
        MANY,
        None,
        [written[LARGE, MANY] / written[SMALL, MANY]],
        at_most=1.001,
    )
    file = tmp_path / "whole.beton"
    began = time.perf_counter()
    command = [sys.executable, "-c", WRITE_WITH_FFCV, str(LARGE), str(SIDE), str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=1500)
    whole = time.perf_counter() - began
    figures.ratio(f"FFCV's writer, N = {LARGE}, seconds", "224x224", None, None, [whole])
    faster = figures.ratio(
        f"FFCV's writer / export, {form}, N = {LARGE}",
        "224x224",
        PAPER,
        None,
        whole / np.array(times[LARGE, PAPER]),
        at_least=50,
    )
    figures.check(grown, bytes_grown, faster)
