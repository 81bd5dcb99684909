"""What a victim begins with, and what of it is trained: the settings in which the papers attack.

No torch here: an experiment is planned without loading it. Stage `retrain` does what they say.
"""

from typing import Annotated, Literal

from pydantic import Field

from stages.config import Config, NotIdentity


class FromScratch(Config):
    """Random weights, all of them trained (Witches' Brew, MetaPoison)."""

    kind: Literal["from-scratch"] = "from-scratch"


class FromSurrogate(Config):
    """A victim that begins with the weights of one of the attacker's surrogates, the network that both downloaded."""

    surrogate: Annotated[int, Field(ge=0), NotIdentity()] = 0
    """Which one. The victim's input says so to its key."""


class FineTuning(FromSurrogate):
    """A warm start, and all layers are trained (Poison Frogs, section 4: end-to-end training)."""

    kind: Literal["fine-tuning"] = "fine-tuning"


class Transfer(FromSurrogate):
    """The feature extractor stays as it is, batch normalisation's statistics too; a new last layer is trained from
    random weights (Poison Frogs, section 3: transfer learning)."""

    kind: Literal["transfer"] = "transfer"


Setting = Annotated[FromScratch | FineTuning | Transfer, Field(discriminator="kind")]
