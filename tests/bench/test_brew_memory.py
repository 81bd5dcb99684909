"""How the memory of a brew grows with its poisons: hardly, because they pass through in micro-batches.

A brew's peak is measured in a fresh process of its own: this file, run as a script.
"""

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from stages import models
from stages.brew.config import DoubleBackward, FiniteDifference, GradientMatching
from stages.data.images import DatasetInfo, ImageSet
from stages.models.config import Network
from stages.stage import Checkpoint, Context, Runtime

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

MICRO_BATCH = 100
DERIVATIVES = {"two-sided": FiniteDifference(), "double-backward": DoubleBackward()}


class StepTaken(Exception):
    """Ends `craft` after a step, which holds all that a brew ever holds."""


class OneStep(Context):
    """A context in which `craft` ends after a step."""

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """End."""
        raise StepTaken


def peak_of_one_step(derivative: str, poisons: int) -> int:
    """Peak resident memory of this process in KiB, after a step of a brew on ResNet-18, width 64, 32×32 images."""
    import torch

    from stages.brew.craft import craft
    from stages.brew.task import Task

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    info = DatasetInfo("random", tuple("0123456789"), (32, 32, 3), (0.5,) * 3, (0.25,) * 3)

    def images(count: int) -> ImageSet:
        return ImageSet(rng.integers(0, 256, (count, *info.shape), np.uint8), np.full(count, 3), np.arange(count))

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StepTaken):
        ctx = OneStep(0, Runtime(device="cpu", micro_batch=MICRO_BATCH), Checkpoint(Path(folder)))
        model = models.build(Network(name="resnet18"), info, 0)
        craft(
            Task([model], images(poisons), images(1), 3, info.std),
            GradientMatching(derivative=DERIVATIVES[derivative]),
            ctx,
        )
    return _peak()


def _peak() -> int:
    # Not getrusage's ru_maxrss: on Linux a process starts with that of the process that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc/self/status")
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_memory_hardly_grows_with_the_poisons(derivative: str, figures: "Figures") -> None:
    peaks = {}
    for poisons in (100, 1000):
        command = [sys.executable, __file__, derivative, str(poisons)]
        peaks[poisons] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        mebibytes = peaks[poisons] / 1024
        figures.ratio(f"{derivative}, peak MiB", "resnet18", poisons, MICRO_BATCH, [mebibytes])
    ratio = peaks[1000] / peaks[100]
    what = f"{derivative}, peak memory, P = 1000 / P = 100"
    figures.check(figures.ratio(what, "resnet18", 1000, MICRO_BATCH, [ratio], at_most=1.3))


if __name__ == "__main__":
    sys.stdout.write(f"{peak_of_one_step(sys.argv[1], int(sys.argv[2]))}\n")
