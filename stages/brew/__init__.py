"""Stage `brew`: one restart of an attack, from the surrogates' view of one case to a poison set."""

import json
from collections.abc import Mapping
from pathlib import Path

from stages.brew.config import GradientMatching
from stages.config import Config
from stages.stage import Context, Metrics, derive_seed, numbered

VERSION = 1


class Params(Config):
    """One restart. Inputs: `dataset`, `case`, and the ensemble `surrogate.0`, `surrogate.1`, …"""

    attack: GradientMatching
    restart: int

    @property
    def seed(self) -> int:
        """The restart's own seed."""
        return self.seed_of(self.restart)

    def seed_of(self, restart: int) -> int:
        """The seed of a restart of this attack."""
        return derive_seed(self.attack.seed, "restart", restart)


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the poison set and `brew.json` (B at each step)."""
    from stages import models
    from stages.brew.craft import craft
    from stages.data.cases import load_case
    from stages.shards import base_shards, poisons

    dataset = base_shards.load(inputs["dataset"])
    case = load_case(inputs["case"])
    base = dataset.train.of(case.poison_ids)
    brew = craft(
        [models.load(folder) for folder in numbered(inputs, "surrogate")],
        base,
        dataset.test.of(case.target_ids),
        case.intended_class,
        dataset.info.std,
        params.attack,
        ctx,
        evaluation_seed=params.seed_of(0),  # so that no restart wins by its draws
    )
    figures = {"brew_loss": brew.loss, "brew_loss_before_quantisation": brew.loss_before}
    info = {**figures, "eps": params.attack.eps, "restart": params.restart}
    poison_set = poisons.PoisonSet(base.ids, brew.images, base.labels, info)
    poisons.check(poison_set, dataset.train, params.attack.eps)
    poisons.save(poison_set, out)
    (out / "brew.json").write_text(json.dumps({"losses": brew.losses, **figures}))
    return {**figures, "start_loss": brew.losses[0], "poisons": len(base)}
