"""Stage `select`: the restart whose poisons have the least brew loss (Witches' Brew, algorithm 1)."""

import math
from collections.abc import Mapping
from pathlib import Path

from stages.config import Config
from stages.stage import Context, Metrics, numbered

VERSION = 1


class Params(Config):
    """Nothing to choose. Inputs: the restarts `brew.0`, `brew.1`, …"""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the chosen poison set as it is. Of equal losses that of the first restart counts; one that is not finite
    never does. Where restarts are raced, the inputs are those that came to the end.

    Raises ArithmeticError where no restart has a finite loss.
    """
    from stages.shards import poisons

    brewed = [poisons.load(folder) for folder in numbered(inputs, "brew")]
    losses, restarts = ([poison_set.info[name] for poison_set in brewed] for name in ("brew_loss", "restart"))
    finite = [number for number, loss in enumerate(losses) if loss is not None and math.isfinite(loss)]
    if not finite:
        raise ArithmeticError(
            f"none of the {len(losses)} restarts has a finite brew loss; lower the attack's step size or h_rel, "
            "and look at the surrogates' training loss"
        )
    chosen = min(finite, key=lambda number: (losses[number], restarts[number]))
    poisons.save(brewed[chosen], out)
    return {"chosen": restarts[chosen], "brew_loss": losses[chosen], "brew_losses": losses}
