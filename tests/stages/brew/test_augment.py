"""The augmentation against a direct implementation of the paper's definition in numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.brew.augment import Draw, adjoint, augment
from stages.brew.config import BrewAugmentation


def random_images(count, height, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, height, width, generator=generator, dtype=torch.float64).to(dtype)


def read(image, column, row):
    """The bilinear value of image [C, H, W] at a real position; black outside."""
    _, height, width = image.shape
    left, top = math.floor(column), math.floor(row)
    value = np.zeros(len(image))
    for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= y < height and 0 <= x < width:
            value += (1 - abs(row - y)) * (1 - abs(column - x)) * image[:, y, x]
    return value


def reference(images, shifts, flips):
    """Output pixel (i, j) of an image shifted by (x, y) is read at (j + x, i + y); a flip mirrors where it is read."""
    _, _, height, width = images.shape
    out = np.zeros_like(images)
    for image, (x, y), flip, written in zip(images, shifts, flips, out, strict=True):
        for i in range(height):
            for j in range(width):
                column = width - 1 - (j + x) if flip else j + x
                written[:, i, j] = read(image, column, i + y)
    return out


def draws(count, seed, shift=4.0):
    return Draw.random(BrewAugmentation(shift=shift), count, torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 9), st.sampled_from([0.0, 0.6, 1.0, 4.0, 12.0]))
def test_it_is_the_papers_definition(seed, height, width, shift):
    images, draw = random_images(6, height, width, seed=seed), draws(6, seed, shift)
    expected = reference(images.numpy(), draw.shift.numpy().astype(np.float64), draw.flip.numpy())
    np.testing.assert_allclose(augment(images, draw).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(augment(images.float(), draw).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("x", "y"), [(0, 0), (1, 0), (0, -2), (-3, 2), (7, 0), (0, 9)])
def test_whole_pixels_are_copies(x, y, flip):
    height, width = 6, 7
    images = random_images(1, height, width)
    expected = torch.zeros_like(images)
    source = images.flip(3) if flip else images
    for i in range(height):
        for j in range(width):
            if 0 <= i + y < height and 0 <= j + x < width:
                expected[..., i, j] = source[..., i + y, j + x]
    draw = Draw(torch.tensor([[float(x), float(y)]]), torch.tensor([flip]))
    torch.testing.assert_close(augment(images, draw), expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(augment(images.float(), draw), expected.float(), atol=1e-5, rtol=0)


def test_a_flip_is_the_shift_of_the_mirrored_image():
    images, draw = random_images(8, 5, 6), draws(8, 3)
    mirrored = torch.where(draw.flip[:, None, None, None], images.flip(3), images)
    straight = Draw(draw.shift, torch.zeros(8, dtype=torch.bool))
    assert draw.flip.any() and not draw.flip.all()
    torch.testing.assert_close(augment(images, draw), augment(mirrored, straight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7)])
def test_the_adjoint_is_the_transpose(height, width, dtype):
    draw = draws(10, 1)
    x, y = (random_images(10, height, width, dtype, seed) for seed in (1, 2))
    forward, backward = (augment(x, draw) * y).sum(), (x * adjoint(y, draw)).sum()
    torch.testing.assert_close(forward, backward)
    assert adjoint(y, draw).dtype == dtype and forward > 1


def test_the_adjoint_is_the_derivative():
    draw, weights = draws(4, 1), random_images(4, 6, 6, seed=2)
    x = random_images(4, 6, 6).requires_grad_()
    (expected,) = torch.autograd.grad((augment(x, draw) * weights).sum(), x)
    torch.testing.assert_close(adjoint(weights, draw), expected)


def test_it_is_linear_and_image_by_image():
    draw = draws(6, 4)
    x, y = random_images(6, 5, 5, seed=1), random_images(6, 5, 5, seed=2)
    torch.testing.assert_close(augment(2 * x - y, draw), 2 * augment(x, draw) - augment(y, draw))
    parts = [augment(x[part], draw.of(part)) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(parts), augment(x, draw))


def test_draws_are_a_function_of_the_generator():
    for first, second in zip(draws(50, 3).__dict__.values(), draws(50, 3).__dict__.values(), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(draws(50, 3).shift, draws(50, 4).shift)


def test_draws_do_not_touch_the_global_generator():
    state = torch.get_rng_state()
    draws(50, 3)
    assert torch.equal(torch.get_rng_state(), state)


def test_shifts_are_uniform_within_their_bounds_and_flips_fair():
    count, bound = 20_000, 4.0
    draw = draws(count, 0, bound)
    assert draw.shift.shape == (count, 2) and draw.shift.abs().max() <= bound
    for direction in draw.shift.T:
        histogram = torch.histc(direction, 10, -bound, bound)
        # 5 standard deviations of a tenth of the draws
        assert (histogram - count / 10).abs().max() < 5 * math.sqrt(count * 0.09)
    assert abs(torch.corrcoef(draw.shift.T)[0, 1]) < 5 / math.sqrt(count)
    assert abs(draw.flip.float().mean() - 0.5) < 5 * 0.5 / math.sqrt(count)


def test_without_flips_the_shifts_stay_the_same():
    plain = Draw.random(BrewAugmentation(flip=False), 50, torch.Generator().manual_seed(3))
    assert not plain.flip.any() and torch.equal(plain.shift, draws(50, 3).shift)
