"""The fields of MetaPoison.

The defaults are those of Huang et al. 2020 for CIFAR-10, section 3; where the paper leaves something open, those of its
authors' code. M, T and the networks are the experiment's `surrogates` and their training.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.config import Config, NotIdentity


class ReColor(Config):
    """ReColorAdv (Laidlaw and Feizi 2019, section 4): each poison's colours go through a map of their own."""

    eps: Annotated[float, Field(gt=0, le=1)] = 0.04
    """eps_c: how far a colour may move along L, u and v, as a part of their ranges (see `stages.brew.meta.color`)."""
    grid: Annotated[int, Field(ge=2)] = 10
    """Nodes of the map along each axis of colour; between them it is interpolated."""
    smoothness: Annotated[float, Field(ge=0)] = 0.05
    """λ of the smoothness term, which keeps neighbouring colours together."""


class Lookahead(Config):
    """How a network in training tells what a change of the poisons does: the part of the attack that its epochs see."""

    unroll: Annotated[int, Field(ge=1)] = 2
    """K, the SGD steps that are unrolled and differentiated through."""
    adversarial_loss: Literal["cross-entropy", "carlini-wagner", "self-concealment"] = "carlini-wagner"
    """The loss on the targets after these steps."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """α of the unrolled steps; null is the training's rate at that moment, where that is of SGD."""
    trajectory: Literal["clean", "poisoned"] = "clean"
    """What the networks' own steps are taken on: the clean images (Algorithm 1, line 11), or the poisons too."""


class MetaPoison(Lookahead):
    """MetaPoison (Algorithm 1)."""

    kind: Literal["metapoison"] = "metapoison"
    eps: Annotated[int, Field(ge=1, le=255)] = 8
    """The largest additive change of a pixel, in 1/255, on top of the recolouring."""
    color: ReColor | None = ReColor()
    """The recolouring, for images of three channels; null leaves the colours, and `eps` bounds the whole change."""
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0
    """The opacity with which the target, of several their mean, is laid over each poison before it is changed: 0.3
    where the authors compare with Poison Frogs in fine-tuning."""
    budget: Annotated[float, Field(gt=0, lt=1), NotIdentity()] = 0.01
    """P/N, the part of the training images for which poisons are crafted. The case carries it."""
    used_budget: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, NotIdentity()] = None
    """The part of the training images that are poisoned in the end, a random subset of those that were crafted; null
    uses all. Other parts of one large set need no crafting anew."""
    restarts: Annotated[int, Field(ge=1), NotIdentity()] = 1
    """Each begins elsewhere in the ball, and is crafted by itself."""
    steps: Annotated[int, Field(ge=1)] = 60
    """C, crafting steps: in each all networks advance by an epoch, and the poisons take one step."""
    step_size: Annotated[float, Field(gt=0)] = 200
    """Of Adam, in 1/255 for pixels and in the same part of their ranges for colours: with 200 it fills its bounds."""
    fall_every: Annotated[int, Field(ge=1)] = 20
    """Steps after each of which the step size is divided by 10."""
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.used_budget is not None and self.used_budget > self.budget:
            raise ValueError(
                f"used_budget is {self.used_budget:g}, and poisons are crafted for a budget of {self.budget:g}; lower "
                "it, or raise budget"
            )
        return self

    @property
    def lookahead(self) -> Lookahead:
        """The part that the networks' epochs depend on."""
        return Lookahead(**{name: getattr(self, name) for name in Lookahead.model_fields})

    @property
    def largest_change(self) -> int | None:
        """What bounds a poison's whole change, in 1/255: eps, or None where colours move too, or there is a watermark.

        A small move in CIELUV is a move of RGB that depends on the colour, so no number of pixel values follows from
        eps_c; the additive change beyond the recoloured image is kept to eps where poisons are quantised.
        """
        return self.eps if self.color is None and not self.watermark else None
