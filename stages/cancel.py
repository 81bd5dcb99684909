"""Stage `cancel`: one poison set of an indiscriminate attack, from the parameters at which training is to end."""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.brew.cancel.config import GradientCanceling
from stages.config import Config
from stages.stage import Context, Metrics, derive_seed

VERSION = 1


class Params(Config):
    """Inputs: `dataset` and `target`, the network with the target parameters."""

    attack: GradientCanceling
    seed: int
    """Of the train images where the poisons begin."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the poison set and `brew.json` (B at each step).

    Returns how many poisons there are, B of the poisons as floats and quantised, `left`, the part of the clean
    gradient's length that remains with the quantised ones, and `eps_d` and `tau` over the clean images that are trained
    on: with eps_d < tau, some of the gradient is left whatever the poisons are.
    """
    import numpy as np

    from stages import models
    from stages.brew.cancel.craft import craft
    from stages.brew.cancel.reachability import threshold
    from stages.data.draw import poison_count
    from stages.shards import base_shards, poisons
    from stages.training import loop

    attack, train = params.attack, base_shards.load(inputs["dataset"]).train
    count = poison_count(attack.eps_d, len(train))
    own = ctx.seeded(derive_seed(attack.seed, "poisons", params.seed))
    base = train.of(np.sort(own.rng("base").choice(train.ids, count, replace=False)))
    model = models.load(inputs["target"]).to(ctx.device)
    logits = loop.predict(model, train, ctx).numpy()
    trained_on = np.ones(len(train), bool)
    if attack.mode == "replace":
        trained_on[train.rows_of(base.ids)] = False
    brew, left = craft(model, train, base, attack, own)
    figures = {
        "poisons": count,
        "brew_loss": brew.loss,
        "brew_loss_before_quantisation": brew.loss_before,
        "left": left,
        "eps_d": count / int(trained_on.sum()),
        "tau": threshold(logits[trained_on], train.labels[trained_on]),
    }
    poisons.save(poisons.PoisonSet(base.ids, brew.images, base.labels, figures), out)
    (out / "brew.json").write_text(json.dumps({"losses": brew.losses, **figures}))
    return figures
