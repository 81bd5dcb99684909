"""Stage `pretrain`: one surrogate of the attacker's ensemble, trained on the clean dataset."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.config import Added, Config
from stages.data.part import Part
from stages.models.config import Network
from stages.stage import Context, Metrics, derive_seed
from stages.training.config import Training

VERSION = 1


class Params(Config):
    """One surrogate. Input: `dataset`."""

    network: Network
    training: Training
    stop_after: Annotated[int, Field(ge=1)] | None = None
    """End after so many epochs of the schedule: one member of a staggered ensemble. Null trains to the end."""
    seed: int
    part: Annotated[Part | None, Added()] = None
    """What the attacker has of the train images; null is all."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the network and `curves.json`. Pretrained weights are taken as they are, without training; where they are
    for other classes, a new last layer is trained on them (transfer learning)."""
    from stages import models
    from stages.shards import base_shards
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    model = models.build(params.network, dataset.info, derive_seed(params.seed, "init"))
    history = loop.History()
    new_head = params.network.new_head(len(dataset.info.classes))
    if new_head:
        model.freeze_body()
    if params.network.weights is None or new_head:
        rate = params.training.learning_rate or models.default_learning_rate(params.network.name)
        images = dataset.train if params.part is None else params.part.of(dataset.train)
        history = loop.train(model, images, params.training, rate, ctx, stop_after=params.stop_after)
    accuracy = loop.accuracy(model.to(ctx.device), dataset.test, ctx)
    models.save(model, out, params.network, dataset.info)
    (out / "curves.json").write_text(json.dumps(history.curves()))
    return {"validation_accuracy": accuracy, "epochs": len(history.loss)}
