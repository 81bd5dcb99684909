"""Stage `cancel`: one poison set of an attack without targets, from the parameters at which training is to end (or
where the follower of a game begins)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.brew.attacks import Indiscriminate
from stages.brew.cancel.config import GradientCanceling
from stages.config import Config
from stages.stage import Context, Metrics, derive_seed

VERSION = 1


class Params(Config):
    """Inputs: `dataset` and `target`, the network with the target parameters; of `tgda` the clean network."""

    attack: Annotated[Indiscriminate, Field(discriminator="kind")]
    seed: int
    """Of the train images where the poisons begin."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the poison set and `brew.json` (B at each step).

    Returns how many poisons there are, B of the poisons as floats and quantised; `left`, the part of the clean
    gradient's length that remains with the quantised ones at the target parameters (of `tgda`, at the follower's last),
    and the test accuracy there; and `eps_d` and `tau` over the clean images that are trained on: with eps_d < tau, some
    of the gradient is left whatever the poisons are.
    """
    import numpy as np

    from stages import models
    from stages.brew.cancel import craft, tgda
    from stages.brew.cancel.reachability import threshold
    from stages.data.draw import poison_count
    from stages.data.images import ImageSet
    from stages.shards import base_shards, poisons
    from stages.training import loop

    attack, dataset = params.attack, base_shards.load(inputs["dataset"])
    train = dataset.train
    count = poison_count(attack.eps_d, len(train))
    own = ctx.seeded(derive_seed(attack.seed, "poisons", params.seed))
    base = train.of(np.sort(own.rng("base").choice(train.ids, count, replace=False)))
    model = models.load(inputs["target"])
    if isinstance(attack, GradientCanceling):
        brew = craft.craft(model, train, base, attack, own)
    else:
        brew = tgda.craft(model, train, base, attack, own)
    made = ImageSet(brew.images, base.labels, base.ids)
    logits = loop.predict(model, train, ctx).numpy()
    trained_on = np.ones(len(train), bool)
    if attack.mode == "replace":
        trained_on[train.rows_of(base.ids)] = False
    figures = {
        "poisons": count,
        "brew_loss": brew.loss,
        "brew_loss_before_quantisation": brew.loss_before,
        "left": craft.left_over(model, train, base, made, attack, ctx),
        "target_accuracy": loop.accuracy(model, dataset.test, ctx),
        "eps_d": count / int(trained_on.sum()),
        "tau": threshold(logits[trained_on], train.labels[trained_on]),
    }
    poisons.save(poisons.PoisonSet(base.ids, brew.images, base.labels, figures), out)
    (out / "brew.json").write_text(json.dumps({"losses": brew.losses, **figures}))
    return figures
