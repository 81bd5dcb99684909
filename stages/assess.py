"""Stage `assess`: what one victim knows, whatever was done to it: its accuracy on the test images."""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.config import Config
from stages.stage import Context, Metrics

VERSION = 1


class Params(Config):
    """Nothing to choose. Inputs: `dataset` and `victim` (what `retrain` left)."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `evaluation.json`: `accuracy` in [0, 1], `loss` (cross-entropy, nats) and the accuracy `per_class`."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    from stages import models
    from stages.shards import base_shards
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    labels = dataset.test.labels
    logits = loop.predict(models.load(inputs["victim"]).to(ctx.device), dataset.test, ctx)
    right = logits.argmax(1).numpy() == labels
    counts = np.bincount(labels, minlength=len(dataset.info.classes))
    found = np.bincount(labels[right], minlength=len(counts))
    figures = {
        "accuracy": float(right.mean()),
        "loss": cross_entropy(logits.double(), torch.from_numpy(labels.copy())).item(),
    }
    per_class = [float(a / b) if b else None for a, b in zip(found, counts, strict=True)]
    (out / "evaluation.json").write_text(json.dumps({**figures, "per_class": per_class}, indent=1, allow_nan=False))
    ctx.progress(1, 1, accuracy=figures["accuracy"])
    return figures
