"""Stage `prepare`: a dataset becomes base shards, once; every other stage reads those and nothing else."""

from collections.abc import Mapping
from pathlib import Path

from stages.config import Config, InputError, identity
from stages.data.datasets import DatasetConfig, name_of, resolve
from stages.data.sources import read
from stages.stage import Context, Metrics

VERSION = 1


class Params(Config):
    """What is prepared."""

    dataset: DatasetConfig
    """As `resolve` completes it: what the folder holds must be what the step's key was made of."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Write the dataset's base shards (see `stages.shards.arrow`) to `out`; an image is a unit of progress.

    Metrics: images and classes, the shape (H, W, C), and each split's content sha256.
    Raises InputError for data that are missing, damaged or not those that were planned, before anything is written.
    """
    from stages.shards import arrow

    config = resolve(params.dataset)
    if identity(config) != identity(params.dataset):
        raise InputError(
            f"{name_of(config)}: the folder on this machine holds an image tree, and the step was planned without its "
            "fingerprint. Point root to the published files, or plan again where this folder can be seen"
        )
    dataset = read(config, max(1, int(ctx.runtime.cpus)), out, ctx.progress)
    return {
        "classes": len(dataset.info.classes),
        "shape": list(dataset.info.shape),
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "train_content": arrow.write(out, "train", dataset.train, dataset.info),
        "test_content": arrow.write(out, "test", dataset.test, dataset.info),
    }
