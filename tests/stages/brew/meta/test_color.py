"""CIELUV against published values, and maps of colours: the identity, the bound, the derivative."""

import itertools

import pytest
import torch

from stages.brew.meta.color import recolor, smoothness, to_luv, to_rgb

PUBLISHED = {
    # sRGB -> L*, u*, v* under D65 (Lindbloom's colour calculator)
    (1, 1, 1): (100, 0, 0),
    (0, 0, 0): (0, 0, 0),
    (1, 0, 0): (53.2408, 175.0151, 37.7564),
    (0, 1, 0): (87.7347, -83.0776, 107.3985),
    (0, 0, 1): (32.2970, -9.4054, -130.3423),
    (0.5, 0.5, 0.5): (53.3890, 0, 0),
}


def random_images(count=4, side=6, seed=0, dtype=torch.float32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("rgb", PUBLISHED)
def test_luv_is_the_published_one(rgb):
    light, u, v = to_luv(torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)).flatten().tolist()
    assert (100 * light, 200 * u - 100, 200 * v - 100) == pytest.approx(PUBLISHED[rgb], abs=0.01)


def test_there_and_back_is_where_it_was():
    bytes_ = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0)).double() / 255
    assert (to_rgb(to_luv(bytes_)) - bytes_).abs().max() < 1e-9
    images = random_images()
    assert (to_rgb(to_luv(images)) - images).abs().max() < 1e-5


def test_the_identity_map_returns_the_image():
    images = random_images()
    images[0] = 0
    images[1] = 1
    assert torch.equal(recolor(images, torch.zeros(4, 3, 5, 5, 5)), images)


def test_a_map_moves_colours_as_its_nodes_do_and_none_further():
    """Grey is far from the edge of sRGB: nothing is cut off there."""
    grey = 0.4 + 0.2 * random_images(dtype=torch.float64)
    moves = (torch.rand(4, 3, 7, 7, 7, generator=torch.Generator().manual_seed(1)).double() * 2 - 1) * 0.04
    moved = (to_luv(recolor(grey, moves)) - to_luv(grey)).abs()
    assert 0.01 < moved.max() <= 0.04 + 1e-6
    for axis in range(3):
        shift = torch.zeros(4, 3, 7, 7, 7, dtype=torch.float64)
        shift[:, axis] = 0.03
        expected = torch.zeros(3, dtype=torch.float64)
        expected[axis] = 0.03
        change = to_luv(recolor(grey, shift)) - to_luv(grey)
        assert torch.allclose(change, expected.view(1, 3, 1, 1).expand_as(change), atol=1e-6)


def test_between_nodes_a_move_is_interpolated_along_the_right_axes():
    """A colour on a node moves by that node's move alone."""
    steps = 5
    node = (2, 3, 2)
    luv = torch.tensor([place / (steps - 1) for place in node], dtype=torch.float64).view(1, 3, 1, 1)
    image = to_rgb(luv)
    assert torch.allclose(to_luv(image), luv, atol=1e-6), "the node must be a colour of sRGB"
    moves = torch.zeros(1, 3, steps, steps, steps, dtype=torch.float64)
    moves[(0, slice(None), *node)] = torch.tensor([0.02, 0.01, -0.03], dtype=torch.float64)
    change = (to_luv(recolor(image, moves)) - luv).flatten()
    assert change.tolist() == pytest.approx([0.02, 0.01, -0.03], abs=1e-4)
    moves[(0, slice(None), *node)] = 0
    moves[(0, slice(None), *node[::-1])] = 0.04
    assert (recolor(image, moves) - image).abs().max() < (1e-4 if node != node[::-1] else 1)


def test_every_colour_stays_a_colour_with_a_finite_derivative():
    corners = torch.tensor(list(itertools.product((0.0, 1 / 255, 1.0), repeat=3))).T.reshape(1, 3, 27, 1)
    for sign in (1, -1):
        moves = torch.full((1, 3, 4, 4, 4), 0.04 * sign, requires_grad=True)
        moved = recolor(corners, moves)
        moved.sum().backward()
        assert moved.isfinite().all() and moved.min() >= 0 and moved.max() <= 1
        assert moves.grad is not None and moves.grad.isfinite().all()


def test_the_derivative_is_that_of_a_finite_difference():
    images = 0.2 + 0.6 * random_images(2, 3, dtype=torch.float64)
    moves = (torch.rand(2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(2)).double() - 0.5) * 0.05
    assert torch.autograd.gradcheck(lambda given: recolor(images, given), moves.requires_grad_(), atol=1e-5)


def test_smoothness_is_the_mean_over_neighbours_of_each_map():
    moves = torch.rand(2, 3, 3, 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lengths = []
    for image in moves:
        nodes = list(itertools.product(range(3), range(4), range(2)))
        for a, b in itertools.combinations(nodes, 2):
            if sum(abs(p - q) for p, q in zip(a, b, strict=True)) == 1:
                lengths.append((image[(slice(None), *a)] - image[(slice(None), *b)]).norm())
    assert smoothness(moves).item() == pytest.approx(2 * torch.stack(lengths).mean().item(), rel=1e-9), "of two maps"
    still = torch.zeros(1, 3, 3, 3, 3, requires_grad=True)
    smoothness(still).backward()
    assert still.grad is not None and not still.grad.any()
