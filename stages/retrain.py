"""Stage `retrain`: one victim, trained from scratch on the dataset with or without poisons. It knows of no attack:
the poisons reach it as replaced images, and its seed is the same with and without them. Who asks for it is told how
well the attack's gradients agree on the way, which the training does not notice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.config import Config
from stages.models.config import Network
from stages.stage import Context, Metrics, derive_seed
from stages.training.config import Training

if TYPE_CHECKING:
    import torch

    from stages.data.images import Dataset

VERSION = 1


class Params(Config):
    """One victim. Inputs: `dataset`, and `overlay` for a poisoned one; with its `case` too, the alignment of gradients
    is recorded."""

    network: Network
    training: Training
    record_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between two records of the test images' logits, from which the curves of figure 9 are drawn."""
    seed: int


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the network, `curves.json` and `watched.safetensors` (float16 logits [records, test images, classes]).

    `curves.json` has `alignment` where the case is given: one cosine a record (see `gradient_alignment`).
    """
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
        observe=_alignment(dataset, inputs, ctx) if "case" in inputs else None,
    )
    models.save(model, out, params.network, dataset.info)
    save_file({"logits": torch.stack(history.watched_logits)}, out / "watched.safetensors")
    (out / "curves.json").write_text(json.dumps(history.curves()))
    return {"train_loss": history.loss[-1], "train_accuracy": history.accuracy[-1]}


def _alignment(dataset: "Dataset", inputs: Mapping[str, Path], ctx: Context) -> "Callable[[torch.nn.Module], float]":
    """Says how the gradients of the poisons and of the case's targets agree in a network."""
    from stages.brew.alignment import gradient_alignment
    from stages.data.cases import load_case
    from stages.shards import overlay, poisons

    case = load_case(inputs["case"])
    # Poisons made elsewhere need not be the images that the case names.
    changed = poisons.load(inputs["overlay"], overlay.STEM).ids
    poisoned, targets = dataset.train.of(changed), dataset.test.of(case.target_ids)
    return lambda model: gradient_alignment(model, poisoned, targets, case.intended_class, ctx)
