"""Stage `case`: one draw of classes, targets and poison base images, by which every later stage knows what to do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.config import Config
from stages.data.cases import OutlierCases, ResolvedCases
from stages.stage import Context, Metrics, numbered

VERSION = 1


class Params(Config):
    """One case. Inputs: `dataset`, and for outlier cases the ensemble `surrogate.0`, `surrogate.1`, …"""

    cases: ResolvedCases
    """After `resolve_cases`; `cases.only` cuts it down to what the case depends on."""
    index: Annotated[int, Field(ge=0)]
    budget: Annotated[float, Field(gt=0, lt=1)]
    """P/N, the part of the train images that are poisons."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `case.json`. The case is a pure function of the params, the dataset and, for outliers, the surrogates."""
    import numpy as np

    from stages import models
    from stages.data.cases import class_names, save_case
    from stages.data.datasets import Description
    from stages.data.draw import draw
    from stages.shards import base_shards
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    classes = dataset.info.classes
    logits = None
    if isinstance(params.cases, OutlierCases):
        surrogates = [models.load(folder).to(ctx.device) for folder in numbered(inputs, "surrogate")]
        logits = np.stack([loop.predict(surrogate, dataset.test, ctx).numpy() for surrogate in surrogates])
    description = Description(
        classes=classes,
        shape=dataset.info.shape,
        train_labels=dataset.train.labels,
        test_labels=dataset.test.labels,
        train_counts=tuple(np.bincount(dataset.train.labels, minlength=len(classes)).tolist()),
        test_counts=tuple(np.bincount(dataset.test.labels, minlength=len(classes)).tolist()),
    )
    case = draw(params.cases, params.index, params.budget, description, logits)
    save_case(case, out)
    return {
        "name": case.name,
        **class_names(case, classes),
        "target_ids": list(case.target_ids),
        "poisons": len(case.poison_ids),
        "budget": len(case.poison_ids) / len(dataset.train),
        "seed": case.seed,
    }
