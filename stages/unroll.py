"""Stage `unroll`: one epoch of one network of MetaPoison's ensemble, and what it says of the poisons.

A crafting step takes one of these of each network, side by side on whatever machines there are, and then one `adapt`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stages.brew.meta.config import Lookahead
from stages.config import Config
from stages.models.config import Network
from stages.stage import Context, Metrics, derive_seed
from stages.training.config import Training

VERSION = 1


class Params(Config):
    """One epoch. Inputs: `dataset`, `case`, `poisons` (what `adapt` left), and after the first epoch the network:
    `network` as this stage left it the epoch before, or `pretrained` as `pretrain` did."""

    how: Lookahead
    network: Network
    training: Training
    epoch: Annotated[int, Field(ge=0)]
    """The number of the epoch in the network's training, from 0."""
    seed: int


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `gradient.safetensors` (float32 [P, C, H, W], at the poisons), `unroll.json` and the network with its
    optimizer, for the epoch after this one. A network that `pretrain` left comes without its optimizer's momentum."""
    import torch
    from safetensors.torch import load_file, save_file

    from stages import models
    from stages.brew.meta.epoch import Poisons, run_epoch
    from stages.brew.meta.lookahead import Labelled
    from stages.data.cases import load_case
    from stages.shards import base_shards
    from stages.stage import Checkpoint
    from stages.training.batches import pixels, to_tensor
    from stages.training.loop import optimizer_of, to_device
    from stages.training.resume import network_state, restore_network

    dataset, case = base_shards.load(inputs["dataset"]), load_case(inputs["case"])
    if "pretrained" in inputs:
        model = models.load(inputs["pretrained"])
    else:
        model = models.build(params.network, dataset.info, derive_seed(params.seed, "init"))
    to_device(model, ctx.device)
    rate = params.training.learning_rate or models.default_learning_rate(params.network.name)
    optimizer = optimizer_of(model, params.training, rate)
    if "network" in inputs:
        saved = Checkpoint(inputs["network"]).load()
        if saved is None:
            raise RuntimeError(f"{inputs['network']}: holds no network of an epoch before; take that step out")
        restore_network(model, optimizer, saved[0])
    targets = dataset.test.of(case.target_ids)
    wanted = [case.adversarial_class] * len(targets)
    seen = run_epoch(
        model,
        optimizer,
        dataset.train,
        Poisons(
            dataset.train.of(case.poison_ids).ids,
            load_file(inputs["poisons"] / "poisons.safetensors")["poisons"].to(ctx.device),
        ),
        Labelled(pixels(to_tensor(targets.array, ctx.device)), torch.tensor(wanted, device=ctx.device)),
        params.how,
        params.training,
        rate,
        params.epoch,
        ctx,
    )
    save_file({"gradient": seen.gradient.cpu().contiguous()}, out / "gradient.safetensors")
    Checkpoint(out).save(network_state(model, optimizer), {})
    figures = {"adversarial_loss": sum(seen.losses) / len(seen.losses), "train_loss": seen.train_loss}
    (out / "unroll.json").write_text(json.dumps({**figures, "adversarial_losses": seen.losses}))
    return figures
