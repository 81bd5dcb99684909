"""Stage `retrain`: one victim, trained on the dataset with or without poisons. It knows of no attack: the poisons
reach it as replaced images, and its seed is the same with and without them. Who asks for it is told how
well the attack's gradients agree on the way, which the training does not notice."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.config import Added, Config, InputError
from stages.data.part import Part
from stages.models.config import Network
from stages.stage import Context, Metrics, derive_seed
from stages.training.config import Training
from stages.training.setting import FromScratch, Setting, Transfer

if TYPE_CHECKING:
    import torch

    from stages.data.images import Dataset
    from stages.models.classifier import Classifier

VERSION = 1


class Params(Config):
    """One victim. Inputs: `dataset`, and `overlay` for a poisoned one; with its `case` too, the alignment of gradients
    is recorded. One that is not trained from scratch also needs `surrogate`, the network that it begins with."""

    network: Network
    training: Training
    setting: Annotated[Setting, Added()] = FromScratch()
    record_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between two records of the test images' logits, from which the curves of figure 9 are drawn."""
    seed: int
    part: Annotated[Part | None, Added()] = None
    """What the victim has of the train images, clean and poisoned; null is all."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the network, `curves.json` and `watched.safetensors` (float16 logits [records, test images, classes]; of a
    victim that begins with a surrogate also the last layer's weights `heads`, float32 [records, classes, d]).

    `curves.json` has `alignment` where the case is given: one cosine a record (see `gradient_alignment`).
    Raises InputError where the surrogate is another network than the victim is to be.
    """
    import torch
    from safetensors.torch import save_file

    from stages import models
    from stages.shards import base_shards, overlay
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    if "overlay" in inputs:
        dataset = overlay.apply(dataset, inputs["overlay"])
    model = models.build(params.network, dataset.info, derive_seed(params.seed, "init"))
    if started := not isinstance(params.setting, FromScratch):
        model = _begun(model, inputs, params)
    history = loop.train(
        model,
        dataset.train if params.part is None else params.part.of(dataset.train),
        params.training,
        params.training.learning_rate or models.default_learning_rate(params.network.name),
        ctx,
        watch=dataset.test,
        watch_every=params.record_every,
        watch_head=started,
        observe=_alignment(dataset, inputs, ctx) if "case" in inputs else None,
    )
    models.save(model, out, params.network, dataset.info)
    heads = {"heads": torch.stack(history.watched_heads)} if started else {}
    save_file({"logits": torch.stack(history.watched_logits), **heads}, out / "watched.safetensors")
    (out / "curves.json").write_text(json.dumps(history.curves()))
    return {"train_loss": history.loss[-1], "train_accuracy": history.accuracy[-1]}


def _begun(fresh: "Classifier", inputs: Mapping[str, Path], params: Params) -> "Classifier":
    """The surrogate, ready to be trained on; of `fresh`, a network of random weights, it may get the last layer."""
    from stages import models

    if "surrogate" not in inputs:
        raise InputError(
            f"setting is {params.setting.kind}, and there is no input surrogate, which the victim starts from"
        )
    model = models.load(inputs["surrogate"])
    ours, theirs = ({name: tensor.shape for name, tensor in of.state_dict().items()} for of in (fresh, model))
    if ours != theirs:
        raise InputError(
            f"{inputs['surrogate']} is no {params.network.name} as the victim is to be, of this width, dataset and "
            f"number of classes, so a setting of {params.setting.kind} cannot start from it; give both one network"
        )
    if isinstance(params.setting, Transfer):
        model.head = fresh.head
        model.freeze_body()
    return model.train()


def _alignment(dataset: "Dataset", inputs: Mapping[str, Path], ctx: Context) -> "Callable[[torch.nn.Module], float]":
    """Says how the gradients of the poisons and of the case's targets agree in a network."""
    from stages.brew.alignment import gradient_alignment
    from stages.data.cases import load_case
    from stages.shards import overlay, poisons

    case = load_case(inputs["case"])
    intended = case.intended_class
    if intended is None:
        raise InputError(
            f"case {case.name!r} has no intended class, towards which the alignment of gradients is measured; train "
            "the victim without the input case"
        )
    # Poisons made elsewhere need not be the images that the case names.
    changed = poisons.load(inputs["overlay"], overlay.STEM).ids
    poisoned, targets = dataset.train.of(changed), dataset.test.of(case.target_ids)
    return lambda model: gradient_alignment(model, poisoned, targets, intended, ctx)
