"""Stage `brew`: one restart of an attack, from the surrogates' view of one case to a poison set.

Where restarts are raced (see `stages.brew.race`) it is a leg of one: the first ones begin a restart each and end on the
way, later ones go on with what the leg before has left, the last ones end with poisons as an unraced restart does.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from stages.brew.attacks import Brewed, crafting_loop
from stages.config import Added, Config
from stages.stage import Context, Metrics, derive_seed, numbered

VERSION = 1


class Params(Config):
    """One restart, or a leg of one. Inputs: `dataset`, `case`, and the ensemble `surrogate.0`, `surrogate.1`, …; of a
    leg after the first also all that the leg before it left, `raced.0`, `raced.1`, …"""

    attack: Brewed
    restart: Annotated[int, Field(ge=0)] | None
    """The restart that begins here; null in a leg after the first."""
    place: Annotated[Annotated[int, Field(ge=0)] | None, Added()] = None
    """In a leg after the first: its rank at the end of the leg before, 0 is the best."""
    until: Annotated[Annotated[int, Field(ge=1)] | None, Added()] = None
    """The step after which this leg ends, with another to follow; null is the attack's last."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.restart is None) == (self.place is None):
            raise ValueError(f"restart is {self.restart} and place is {self.place}; give one of them")
        if self.until is not None and self.until >= self.attack.steps:
            raise ValueError(f"until is {self.until}, and the attack has steps: {self.attack.steps}; leave it out")
        return self

    @property
    def seed(self) -> int:
        """The restart's own seed; in a place, which only finds out who goes on there, that of restart 0."""
        return self.seed_of(self.restart or 0)

    def seed_of(self, restart: int) -> int:
        """The seed of a restart of this attack."""
        return derive_seed(self.attack.seed, "restart", restart)


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the poison set and `brew.json` (B at each step); in a leg with another to follow, the state of the brew in
    the poison set's place.

    A place that only a restart without a finite B is left for does not brew: it hands on what that has.
    """
    from stages import models
    from stages.brew import race
    from stages.brew.task import Task
    from stages.data.cases import load_case
    from stages.shards import base_shards, poisons

    before = None if params.place is None else race.in_place(params.place, numbered(inputs, "raced"))
    restart = params.restart if before is None else before.restart
    assert restart is not None
    lost = before is not None and before.loss is None
    dataset = base_shards.load(inputs["dataset"])
    case = load_case(inputs["case"])
    base = dataset.train.of(case.poison_ids)
    task = Task(
        [models.load(folder) for folder in numbered(inputs, "surrogate")],
        base,
        dataset.test.of(case.target_ids),
        case.adversarial_class,
        dataset.info.std,
    )
    brew = crafting_loop(params.attack)(
        task,
        params.attack,
        ctx.seeded(params.seed_of(restart)),
        evaluation_seed=params.seed_of(0),  # so that no restart wins by its draws
        start=None if before is None else before.saved(),
        until=len(before.losses) if before is not None and lost else params.until,
    )
    figures = {"brew_loss": None if lost else _finite(brew.loss)}
    if params.until is not None:
        race.leave(out, restart, (brew.state, {"losses": brew.losses}), figures)
    else:
        figures["brew_loss_before_quantisation"] = _finite(brew.loss_before)
        info = {**figures, "eps": params.attack.eps, "restart": restart}
        poison_set = poisons.PoisonSet(base.ids, brew.images, base.labels, info)
        poisons.check(poison_set, dataset.train, params.attack.eps)
        poisons.save(poison_set, out)
        raced = {} if before is None else {"restart": restart}
        (out / race.FIGURES).write_text(json.dumps({"losses": brew.losses, **figures, **raced}))
    return {**figures, "start_loss": brew.losses[0], "poisons": len(base)}


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
