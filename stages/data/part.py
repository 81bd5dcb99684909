"""Partial knowledge: attacker and victim who have a random part of the train images each (Witches' Brew, Table 7)."""

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.config import Config

if TYPE_CHECKING:
    from stages.data.images import ImageSet


class Part(Config):
    """A random part of the train images, whatever their class, poisoned or not."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Of the images, rounded down."""
    seed: int
    """Of the draw alone: who shares it has the same images."""

    def count(self, images: int) -> int:
        """How many of so many images it has, one at least."""
        return max(1, math.floor(Fraction(str(self.fraction)) * images))

    def of(self, images: "ImageSet") -> "ImageSet":
        """The part, in the order of the whole; a view, of which no image is copied."""
        import numpy as np

        rows = np.random.default_rng(self.seed).choice(len(images), self.count(len(images)), replace=False)
        return images.rows(np.sort(rows))
