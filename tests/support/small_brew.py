"""A brew on digits that takes a second: its attack, and the context in which it may be interrupted."""

from pathlib import Path
from typing import Any

from stages.brew.config import BrewAugmentation, GradientMatching
from stages.models import Network
from stages.stage import Checkpoint, Context, Runtime

NETWORK = Network(name="convnet", width=8, depth=3)
ATTACK = GradientMatching(eps=32, steps=12, augmentation=BrewAugmentation(shift=1, flip=False))
INTENDED = 3


class Interrupted(BaseException):
    """As a killed process: nothing in the brew may catch it."""


def context(folder: Path, seed: int = 0, stop_at: int | None = None, **runtime: Any) -> Context:
    """A context that keeps a checkpoint after every step, and is killed once `stop_at` steps are done."""

    def report(done: int, total: int, figures: dict[str, float]) -> None:
        if done == stop_at:
            raise Interrupted

    return Context(seed, Runtime(device="cpu", checkpoint_seconds=0, **runtime), Checkpoint(folder), report)
