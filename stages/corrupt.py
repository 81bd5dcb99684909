"""Stage `corrupt`: the parameters at which an indiscriminate attack wants training to end: a clean network made bad."""

from collections.abc import Mapping
from pathlib import Path

from stages.brew.cancel.config import Corruption
from stages.config import Config
from stages.stage import Context, Metrics

VERSION = 1


class Params(Config):
    """Inputs: `dataset` and `surrogate`, the clean network."""

    corruption: Corruption


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the network with the target parameters, in the form of `pretrain`.

    Returns its accuracy on the test images, that of the clean network, its distance from it in parts of the clean
    parameters' length, and tau over the clean train images: with fewer poisons than tau·N that are added to them, the
    target parameters are out of reach.
    """
    from stages import models
    from stages.brew.cancel.corruption import corrupt
    from stages.brew.cancel.reachability import threshold
    from stages.shards import base_shards
    from stages.training import loop
    from stages.training.precision import precision

    dataset = base_shards.load(inputs["dataset"])
    model = models.load(inputs["surrogate"])
    loop.to_device(model, ctx.device)

    clean = loop.accuracy(model, dataset.test, ctx)
    with precision("float32", ctx.device):
        distance = corrupt(model, dataset.train, params.corruption, ctx.seeded(params.corruption.seed))
    saved = models.SavedModel.model_validate_json((inputs["surrogate"] / models.DESCRIPTION).read_bytes())
    models.save(model, out, saved.network, dataset.info)
    tau = threshold(loop.predict(model, dataset.train, ctx).numpy(), dataset.train.labels)
    accuracy = loop.accuracy(model, dataset.test, ctx)
    return {"accuracy": accuracy, "clean_accuracy": clean, "distance": distance, "tau": tau}
