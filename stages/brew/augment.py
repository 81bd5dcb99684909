"""The differentiable augmentation of brewing: a bilinear shift and a flip, one draw an image.

It is linear in the image, so its derivative is its adjoint: a brew step augments once, lets every surrogate work on
the augmented images, and carries the summed gradient back once.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import affine_grid, grid_sample

from stages.brew.config import BrewAugmentation


@dataclass(frozen=True)
class Draw:
    """One draw for each of P images. shift: float32 [P, 2] in pixels (x, y).  flip: bool [P]."""

    shift: torch.Tensor
    flip: torch.Tensor

    @classmethod
    def random(cls, augmentation: BrewAugmentation, count: int, generator: torch.Generator) -> "Draw":
        """Uniform shifts in [-shift, shift] and fair flips, drawn on the CPU."""
        shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * augmentation.shift
        flip = torch.rand(count, generator=generator) < 0.5
        return cls(shift, flip if augmentation.flip else torch.zeros_like(flip))

    def of(self, part: slice) -> "Draw":
        """The draw for a part of the images."""
        return Draw(self.shift[part], self.flip[part])


def augment(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Shift each image by its (x, y) pixels, bilinear with black outside, and mirror those to be flipped.

    images: float [P, C, H, W] -> [P, C, H, W]. Grid sampling as in Witches' Brew, section 3.3 and appendix A: output
    pixel (i, j) is read at (j + x, i + y); a flip mirrors where it is read.
    """
    count, _, height, width = images.shape
    shift, sign = draw.shift.to(images.dtype), torch.where(draw.flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, dtype=images.dtype)
    theta[:, 0, 0] = sign
    theta[:, 1, 1] = 1.0
    # affine_grid's coordinates run from -1 to 1 across width - 1 pixels.
    theta[:, 0, 2] = sign * shift[:, 0] * 2 / max(width - 1, 1)
    theta[:, 1, 2] = shift[:, 1] * 2 / max(height - 1, 1)
    grid = affine_grid(theta.to(images), list(images.shape), align_corners=True)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def adjoint(gradient: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The transpose of `augment`: carries a gradient at the augmented images back to the images. [P, C, H, W]."""
    images = torch.zeros_like(gradient).requires_grad_()
    (carried,) = torch.autograd.grad(augment(images, draw), images, gradient)
    return carried
