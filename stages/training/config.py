"""The fields of a training, for surrogates and victims alike. The defaults are those of Witches' Brew, appendix A."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.config import Config

Precision = Literal["float32", "tf32", "bf16"]
"""How products are rounded: float32 exactly, float32 with TF32 products (GPU only), or bf16 autocast."""


class MultiStep(Config):
    """The rate is multiplied by `factor` after each of the named epochs."""

    kind: Literal["multistep"] = "multistep"
    after: tuple[int, ...] | None = None
    """Epochs after which the rate falls; null is the paper's epochs//2.667, //1.6, //1.142 (14, 24, 35 of 40)."""
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    def milestones(self, length: int) -> tuple[int, ...]:
        """The milestones for a training of `length` epochs (or a brew of `length` steps), each after at least one."""
        if self.after is not None:
            return self.after
        return tuple(int(length // part) for part in (2.667, 1.6, 1.142) if length >= part)

    def refuse_unreached(self, length: int, unit: str) -> None:
        """Raises ValueError where `after` names what a training of `length` epochs (or steps) never reaches."""
        for milestone in self.after or ():
            if not 0 < milestone < length:
                raise ValueError(
                    f"schedule.after names {unit} {milestone}, but there are {length} {unit}s; "
                    f"name {unit}s between 0 and {length}, or leave it out for the paper's"
                )


class Cosine(Config):
    """A linear rise from 0 over the first part, then half a cosine down to 0."""

    kind: Literal["cosine"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part of the training in which the rate rises; 0.3 with a high rate is the usual one-cycle schedule."""


class Constant(Config):
    """The rate stays."""

    kind: Literal["constant"] = "constant"


Schedule = Annotated[MultiStep | Cosine | Constant, Field(discriminator="kind")]


class Augmentation(Config):
    """What happens to a training image before each use (Witches' Brew, appendix A)."""

    flip: bool = True
    """Mirror left to right with probability 1/2."""
    pad: Annotated[int, Field(ge=0)] = 4
    """Pixels of black around the image before a random crop of the original size."""

    @property
    def none(self) -> bool:
        """Whether images are used as they are, each time alike."""
        return not self.flip and self.pad == 0


class Training(Config):
    """One training from scratch."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    epochs: Annotated[int, Field(ge=1)] = 40
    batch_size: Annotated[int, Field(ge=2)] = 128
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Null is the network's own: 0.1, or 0.01 for ConvNet, MobileNet-v2 and VGG."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's momentum, or Adam's first decay rate."""
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Schedule = MultiStep()
    augmentation: Augmentation = Augmentation()
    precision: Precision = "float32"
    batch_norm_groups: Annotated[int, Field(ge=1)] = 1
    """Parts of a batch over each of which batch normalisation takes its statistics: part j of k is the images j, j + k,
    j + 2k, … of the batch. As many as workers (or a multiple) let each worker normalise by itself, as on several GPUs
    without synchronisation; 1 takes them over the whole batch. The result is the same for any number of workers."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.optimizer == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0; set momentum, or nesterov: false")
        if isinstance(self.schedule, MultiStep):
            self.schedule.refuse_unreached(self.epochs, "epoch")
        if self.batch_size < 2 * self.batch_norm_groups:
            raise ValueError(
                f"batch_norm_groups is {self.batch_norm_groups} and batch_size {self.batch_size}, and a group has at "
                "least two images; set fewer groups or larger batches"
            )
        return self
