"""ReColorAdv: one map of colours an image, learned on a grid in CIELUV (Laidlaw and Feizi 2019, section 4).

CIELUV is that of CIE 1976 for sRGB images under D65 (IEC 61966-2-1), normalised as (L / 100, (u + 100) / 200,
(v + 100) / 200): equal steps look about equally large, so that a bound on them is one on what is seen.
"""

import torch
from torch.nn.functional import grid_sample

_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
"""Linear sRGB to XYZ; the sums of its rows are the white of D65."""
_WHITE = [sum(row) for row in _XYZ]
_SUM = _WHITE[0] + 15 * _WHITE[1] + 3 * _WHITE[2]
_WHITE_U, _WHITE_V = 4 * _WHITE[0] / _SUM, 9 * _WHITE[1] / _SUM
_TINY = 1e-10


def to_luv(images: torch.Tensor) -> torch.Tensor:
    """sRGB [P, 3, H, W] in [0, 1] as normalised CIELUV [P, 3, H, W]."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055).pow(2.4))
    x, y, z = _times(_XYZ, linear).unbind(1)
    total = x + 15 * y + 3 * z + _TINY
    light = torch.where(y <= (6 / 29) ** 3, (29 / 3) ** 3 * y, 116 * y.clamp(min=_TINY).pow(1 / 3) - 16)
    u, v = 13 * light * (4 * x / total - _WHITE_U), 13 * light * (9 * y / total - _WHITE_V)
    return torch.stack([light / 100, (u + 100) / 200, (v + 100) / 200], 1)


def to_rgb(luv: torch.Tensor) -> torch.Tensor:
    """Normalised CIELUV [P, 3, H, W] as sRGB in [0, 1]; colours that sRGB lacks become the nearest in each channel."""
    light = luv[:, 0].clamp(0, 1) * 100
    u, v = ((luv[:, axis] * 200 - 100) / (13 * light + _TINY) for axis in (1, 2))
    # No light has a chromaticity outside these; near black, where u and v are divided by almost nothing, a move leaves.
    u, v = (u + _WHITE_U).clamp(0, 1), (v + _WHITE_V).clamp(0.01, 1)
    y = torch.where(light <= 8, light * (3 / 29) ** 3, ((light + 16) / 116).pow(3))
    x, z = y * 9 * u / (4 * v), y * (12 - 3 * u - 20 * v) / (4 * v)
    inverse = torch.tensor(_XYZ, dtype=torch.float64).inverse().tolist()
    linear = _times(inverse, torch.stack([x, y, z], 1)).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=_TINY).pow(1 / 2.4) - 0.055)


def recolor(images: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """The images [P, 3, H, W] with colours moved: [P, 3, H, W] in [0, 1], differentiable in the moves.

    moves: [P, 3, g, g, g], how far the map moves each node of a grid over L, u and v, along L, u and v; colours between
    nodes move by what is interpolated, so none by more than the nodes. Without moves the images come back bit for bit.
    """
    luv = to_luv(images)
    # grid_sample wants the last axis of the grid first, in [-1, 1].
    places = (luv.flip(1) * 2 - 1).permute(0, 2, 3, 1)[:, None]
    moved = luv + grid_sample(moves, places, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0]
    # As a change of the image, which what rounding takes on the way there and back does not touch.
    return (images + (to_rgb(moved) - to_rgb(luv))).clamp(0, 1)


def smoothness(moves: torch.Tensor) -> torch.Tensor:
    """The mean length of the difference between the moves [P, 3, g, g, g] of neighbouring nodes, added up over the
    poisons, a scalar.

    The smoothness term of Laidlaw and Feizi (2019, section 4), as a mean over a map's nodes in place of their sum. Each
    poison has its own, as each has its own gradient of the adversarial loss, so that neither depends on the others.
    """
    differences = [moves.diff(dim=axis).square().sum(1).flatten(1) for axis in (2, 3, 4)]
    # The root has no slope at 0, where every map begins.
    return (torch.cat(differences, 1) + _TINY).sqrt().mean(1).sum()


def _times(matrix: tuple[tuple[float, ...], ...] | list[list[float]], images: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,pjhw->pihw", torch.tensor(matrix, dtype=images.dtype, device=images.device), images)
