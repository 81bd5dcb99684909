"""Stage `adapt`: one crafting step of MetaPoison's poisons, by what its networks say of them.

Step 0 begins; each later one averages the gradients that a `unroll` of each network left, and steps; the last one ends
with a poison set as a brew does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from stages.brew.meta.config import MetaPoison
from stages.config import Config
from stages.stage import Context, Metrics, derive_seed, numbered

if TYPE_CHECKING:
    from stages.brew.meta.crafted import Crafted
    from stages.data.cases import Case
    from stages.data.images import Dataset

VERSION = 1


class Params(Config):
    """One step of one restart. Inputs: `dataset`, `case`, and after step 0 also `before` (what the step before left)
    and the epochs of the ensemble, `unroll.0`, `unroll.1`, …"""

    attack: MetaPoison
    restart: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=0)]
    used_budget: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of the last step: the part of the train images that are poisoned; null is all that were crafted."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.step > self.attack.steps:
            raise ValueError(f"step is {self.step}, and the attack has steps: {self.attack.steps}")
        return self

    @property
    def seed(self) -> int:
        """The restart's own."""
        return derive_seed(self.attack.seed, "restart", self.restart)


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `poisons.safetensors` (float32 [P, C, H, W]) and the state that the next step goes on from; the last step
    a poison set and `brew.json` (the adversarial loss at each step) instead.

    B is the adversarial loss after the look-ahead, averaged over the networks: at the last step of the poisons as they
    came to it, for those that leave it are seen by no network any more. The networks grow surer as they train, so that
    B may rise while the poisons get better: compare steps at which the networks are of the same ages, T apart.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from stages.brew.meta.crafted import Crafted
    from stages.data.cases import load_case
    from stages.shards import base_shards
    from stages.stage import Checkpoint
    from stages.training.batches import pixels, to_tensor

    dataset, case = base_shards.load(inputs["dataset"]), load_case(inputs["case"])
    base = pixels(to_tensor(dataset.train.of(case.poison_ids).array, ctx.device)).contiguous()
    if params.attack.watermark:
        targets = pixels(to_tensor(dataset.test.of(case.target_ids).array, ctx.device))
        base = base.lerp(targets.mean(0), params.attack.watermark)
    crafted, losses = Crafted(base, params.attack, ctx.runtime.micro_batch), list[float]()
    if params.step == 0:
        crafted.start(ctx.torch_rng("start"))
    else:
        saved = Checkpoint(inputs["before"]).load()
        if saved is None:
            raise RuntimeError(f"{inputs['before']}: holds no state of a crafting step; take that step out")
        crafted.restore(saved[0])
        told = numbered(inputs, "unroll")
        gradient = torch.zeros_like(base)
        for folder in told:
            gradient += load_file(folder / "gradient.safetensors")["gradient"].to(ctx.device) / len(told)
        figures = [json.loads((folder / "unroll.json").read_text())["adversarial_loss"] for folder in told]
        losses = [*saved[1]["losses"], sum(figures) / len(told)]
        crafted.step(gradient)
    if params.step == params.attack.steps:
        poisons = _finish(params, crafted, dataset, case, losses, out, ctx)
    else:
        poisons = len(base)
        save_file({"poisons": crafted.images.cpu().contiguous()}, out / "poisons.safetensors")
        Checkpoint(out).save(crafted.state(), {"losses": losses})
    return {"brew_loss": losses[-1] if losses else None, "poisons": poisons}


def _finish(
    params: Params, crafted: "Crafted", dataset: "Dataset", case: "Case", losses: list[float], out: Path, ctx: Context
) -> int:
    """Write the poison set, checked; gives how many poisons it has."""
    import numpy as np

    from stages.brew.race import FIGURES
    from stages.data.draw import poison_count
    from stages.shards import poisons

    base, eps = dataset.train.of(case.poison_ids), params.attack.largest_change
    rows = np.arange(len(base))
    if params.used_budget is not None:
        used = min(poison_count(params.used_budget, len(dataset.train)), len(base))
        rows = np.sort(ctx.rng("used").choice(len(base), used, replace=False))
    figures = {"brew_loss": losses[-1], "brew_loss_before_quantisation": losses[-1]}
    info = {**figures, "eps": eps, "restart": params.restart}
    found = poisons.PoisonSet(base.ids[rows], crafted.quantised()[rows], base.labels[rows], info)
    poisons.check(found, dataset.train, eps)
    poisons.save(found, out)
    (out / FIGURES).write_text(json.dumps({"losses": losses, **figures}))
    return len(found)
