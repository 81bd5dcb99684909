"""Stage `prepare`: a dataset becomes base shards, once; every other stage reads those and nothing else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.config import Config, InputError, identity
from stages.data.dataset_config import DatasetConfig, name_of
from stages.data.datasets import resolve
from stages.shards.config import SPLITS, Shards, Split
from stages.stage import Context, Metrics, numbered

if TYPE_CHECKING:
    from stages.data.images import DatasetInfo
    from stages.shards.base_shards import Part

VERSION = 2


class Params(Config):
    """What is prepared. Inputs: of an image tree, the shards `train.0`, `train.1`, …, `test.0`, …; else none."""

    dataset: DatasetConfig
    """As `resolve` completes it: what the folder holds must be what the step's key was made of."""
    shards: Shards = Shards()


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Write the dataset's base shards (see `stages.shards.base_shards`); those that are inputs are linked, not read.

    Metrics: classes, the shape (H, W, C), images and bytes of each split.
    Raises InputError for data that are missing, damaged or not those that were planned, before anything is written.
    """
    from stages.shards import base_shards

    info, parts = _joined(params.dataset, inputs, out) if inputs else _read(params, out, ctx)
    base_shards.describe(out, info, parts)
    return {
        "classes": len(info.classes),
        "shape": list(info.shape),
        **{f"{split}_images": sum(sum(part.per_class) for part in of) for split, of in parts.items()},
        **{f"{split}_bytes": sum((out / part.file).stat().st_size for part in of) for split, of in parts.items()},
    }


def _read(params: Params, out: Path, ctx: Context) -> "tuple[DatasetInfo, dict[Split, list[Part]]]":
    """A published dataset, in one shard a split."""
    from stages.data.sources import read
    from stages.shards import base_shards

    config = resolve(params.dataset)
    if identity(config) != identity(params.dataset):
        raise InputError(
            f"{name_of(config)}: the folder on this machine holds an image tree, and the step was planned without its "
            "fingerprint. Point root to the published files, or plan again where this folder can be seen"
        )
    dataset = read(config)
    splits = {"train": dataset.train, "test": dataset.test}
    return dataset.info, {
        split: [base_shards.write_part(out, split, 0, 1, splits[split], params.shards, len(dataset.info.classes))]
        for split in SPLITS
    }


def _joined(
    config: DatasetConfig, inputs: Mapping[str, Path], out: Path
) -> "tuple[DatasetInfo, dict[Split, list[Part]]]":
    """A tree's shards, which become this step's outputs as they are."""
    import numpy as np

    from stages.data.images import DatasetInfo
    from stages.data.sources import statistics_of
    from stages.shards import base_shards

    parts: dict[Split, list[Part]] = {}
    levels = []
    for split in SPLITS:
        parts[split] = []
        for folder in (folders := numbered(inputs, split)):
            facts = json.loads((folder / "shard.json").read_text())
            expected = {"split": split, "index": len(parts[split]), "shards": len(folders)}
            if (found := {name: facts[name] for name in expected}) != expected:
                raise InputError(f"{folder}: holds shard {found}, expected {expected}; give the shards in their order")
            link = out / facts["file"]
            link.unlink(missing_ok=True)  # of an attempt before
            link.symlink_to((folder / facts["file"]).resolve())
            parts[split].append(base_shards.Part(facts["file"], facts["per_class"]))
            if split == "train":
                levels.append(np.array(facts["levels"]))
    mean, std = statistics_of(np.sum(levels, axis=0))
    return DatasetInfo(name_of(config), tuple(facts["classes"]), tuple(facts["shape"]), mean, std), parts
