"""Stage `retrain`: one victim, trained from scratch on the dataset with or without poisons. It knows of no attack:
the poisons reach it as replaced images, and its seed is the same with and without them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.config import Config
from stages.models.config import Network
from stages.stage import Context, Metrics, derive_seed
from stages.training.config import Training

VERSION = 1


class Params(Config):
    """One victim. Inputs: `dataset`, and `overlay` for a poisoned one."""

    network: Network
    training: Training
    record_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between two records of the test images' logits, from which the curves of figure 9 are drawn."""
    seed: int


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the network, `curves.json` and `watched.safetensors` (float16 logits [records, test images, classes])."""
    import torch
    from safetensors.torch import save_file

    from stages import models
    from stages.shards import base_shards, overlay
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    if "overlay" in inputs:
        dataset = overlay.apply(dataset, inputs["overlay"])
    model = models.build(params.network, dataset.info, derive_seed(params.seed, "init"))
    history = loop.train(
        model,
        dataset.train,
        params.training,
        params.training.learning_rate or models.default_learning_rate(params.network.name),
        ctx,
        watch=dataset.test,
        watch_every=params.record_every,
    )
    models.save(model, out, params.network, dataset.info)
    save_file({"logits": torch.stack(history.watched_logits)}, out / "watched.safetensors")
    (out / "curves.json").write_text(json.dumps(history.curves()))
    return {"train_loss": history.loss[-1], "train_accuracy": history.accuracy[-1]}
