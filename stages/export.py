"""Stage `export`: the chosen poisons, checked once more and laid over the base shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.config import Config
from stages.stage import Context, Metrics

VERSION = 1


class Params(Config):
    """Inputs: `dataset` and `poisons` (what `select` left)."""

    eps: Annotated[float, Field(ge=0)] | None
    """The largest change of a pixel allowed, in 1/255; null for an attack without a bound."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the overlay. Raises InputError where the poisons do not fit the dataset or break eps."""
    from stages.shards import base_shards, overlay, poisons

    poison_set = poisons.load(inputs["poisons"])
    facts = overlay.write(poison_set, base_shards.load(inputs["dataset"]).train, params.eps, out)
    return {"poisons": len(poison_set), "sha256": poison_set.sha256(), **facts}
