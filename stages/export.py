"""Stage `export`: the poisons, brewed here or made elsewhere, checked once more and laid over the base shards."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.brew.attacks import ReadFormat
from stages.config import Added, Config, InputError, Location
from stages.stage import Context, Metrics

if TYPE_CHECKING:
    from stages.data.images import Dataset
    from stages.shards.poisons import PoisonSet

VERSION = 1


class FromFolder(Config):
    """Where poisons lie that somebody else made."""

    format: ReadFormat
    folder: Location = None
    sha256: str
    """Of the folder's poisons, as `stages.interchange.external.fingerprint` gives it."""


class Params(Config):
    """Inputs: `dataset`, and `poisons` (what `select` left) or `case`."""

    eps: Annotated[float, Field(ge=0)] | None
    """The largest change of a pixel allowed, in 1/255; null for an attack without a bound."""
    made_elsewhere: FromFolder | None = None
    """Null takes the poisons that were brewed; else they are read, and must fit the case."""
    append: Annotated[bool, Added()] = False
    """Whether the poisons come behind the train images, N + P, and not in the places of those they were made from."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the overlay. Raises InputError where the poisons do not fit the dataset (or, of a folder, the case) or
    break eps."""
    from stages.shards import base_shards, overlay, poisons

    dataset = base_shards.load(inputs["dataset"])
    if (source := params.made_elsewhere) is not None:
        from stages.data.cases import load_case
        from stages.interchange import external

        if source.folder is None:
            raise InputError("made_elsewhere.folder is missing: it names the folder with the poisons")
        case = load_case(inputs["case"])
        poison_set = external.read(source.format, source.folder, source.sha256, dataset, case)
    else:
        poison_set = poisons.load(inputs["poisons"])
    facts = overlay.write(poison_set, dataset.train, params.eps, out, params.append)
    _verify(dataset, poison_set, params.append, out)
    return {"poisons": len(poison_set), "sha256": poison_set.sha256(), **facts}


def _verify(dataset: "Dataset", poison_set: "PoisonSet", append: bool, out: Path) -> None:
    """Read the poisons as a victim will, from the disk and through the base, byte for byte."""
    import numpy as np

    from stages.shards import overlay

    ids = len(dataset.train) + np.arange(len(poison_set)) if append else poison_set.ids
    if not np.array_equal(overlay.apply(dataset, out).train.of(ids).images, poison_set.images):
        raise RuntimeError(f"{out}: the overlay does not read back as it was written; the disk may be damaged")
