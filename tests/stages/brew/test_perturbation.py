"""The perturbation against torch's own Adam, and its bounds under any gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.brew.config import GradientMatching
from stages.brew.perturbation import Perturbation
from stages.stage import Checkpoint
from stages.training.config import MultiStep

SCALE = torch.tensor([0.25, 0.2, 0.3])


def base_images(count=4, seed=0):
    """Pixels of a uint8 image, black and white among them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 5, 5))
    images[0, :, 0], images[0, :, 1] = 0, 255
    return torch.from_numpy(images).float() / 255


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(base, count, seed=0):
    draws = generator(seed)
    for _ in range(count):
        gradient = torch.randn(base.shape, generator=draws)
        gradient[torch.rand(base.shape, generator=draws) < 0.1] = 0
        yield gradient


def test_it_is_torchs_adam_on_the_sign_with_the_papers_decays():
    steps = 40
    attack = GradientMatching(steps=steps, eps=255, step_size=0.001)
    base = torch.full((2, 3, 5, 5), 0.5)  # far from every bound: no projection
    perturbation = Perturbation(base, SCALE, attack, None)
    # One parameter a channel, because the step is in units of the channel's deviation.
    theirs = [torch.zeros(2, 5, 5, requires_grad=True) for _ in SCALE]
    groups = [{"params": [p], "lr": 0.001 * scale.item()} for p, scale in zip(theirs, SCALE, strict=True)]
    adam = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8)
    decay = torch.optim.lr_scheduler.MultiStepLR(adam, [steps // 2.667, steps // 1.6, steps // 1.142], 0.1)
    for gradient in gradients(base, steps):
        perturbation.step(gradient)
        for channel, parameter in enumerate(theirs):
            parameter.grad = gradient[:, channel].sign()
        adam.step()
        decay.step()
        torch.testing.assert_close(perturbation.delta, torch.stack(theirs, 1).detach(), rtol=1e-4, atol=1e-7)


def test_the_step_falls_after_14_24_and_35_of_40():
    attack = GradientMatching(steps=40, eps=255, step_size=0.001)
    base = torch.full((1, 3, 2, 2), 0.5)
    perturbation = Perturbation(base, torch.ones(3), attack, None)
    moves = []
    for _ in range(40):
        before = perturbation.delta.clone()
        perturbation.step(torch.ones_like(base))
        moves.append((before - perturbation.delta).mean().item())
    # A gradient of one sign makes every step of Adam as long as its rate.
    assert moves == pytest.approx([1e-3] * 14 + [1e-4] * 10 + [1e-5] * 11 + [1e-6] * 5, rel=1e-2)


def test_a_stated_schedule_is_followed():
    attack = GradientMatching(steps=4, eps=255, step_size=0.01, schedule=MultiStep(after=(3,), factor=0.5))
    base = torch.full((1, 3, 2, 2), 0.5)
    perturbation = Perturbation(base, torch.ones(3), attack, None)
    for _ in range(4):
        perturbation.step(torch.ones_like(base))
    assert perturbation.delta.mean().item() == pytest.approx(-0.01 * 3.5, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 255), st.integers(0, 1000), st.floats(0.001, 30), st.booleans())
def test_delta_stays_in_the_ball_and_pixels_in_their_range(eps, seed, step_size, random_start):
    base = base_images(seed=seed)
    attack = GradientMatching(steps=5, eps=eps, step_size=step_size)
    perturbation = Perturbation(base, SCALE, attack, generator(seed) if random_start else None)
    for gradient in [None, *gradients(base, 5, seed)]:
        if gradient is not None:
            perturbation.step(gradient)
        assert perturbation.delta.abs().max() <= torch.tensor(eps / 255)
        assert perturbation.poisons.min() >= 0 and perturbation.poisons.max() <= 1
        assert torch.equal(perturbation.poisons, base + perturbation.delta)
        whole = perturbation.quantised()
        change = whole.int() - (base * 255).round().int()
        assert whole.dtype == torch.uint8 and change.abs().max() <= eps
        # Only rounding lies between the poisons as floats and as pixels.
        assert (whole / 255 - perturbation.poisons).abs().max() <= 0.5001 / 255


@pytest.mark.parametrize("eps", range(1, 256))
def test_the_full_ball_is_quantised_to_exactly_eps(eps):
    base = torch.arange(256).div(255).view(1, 1, 16, 16)
    for sign in (1.0, -1.0):
        perturbation = Perturbation(base, torch.ones(1), GradientMatching(eps=eps, step_size=10.0), None)
        perturbation.step(torch.full_like(base, -sign))
        expected = (torch.arange(256) + int(sign) * eps).clamp(0, 255)
        assert torch.equal(perturbation.quantised().flatten().int(), expected.int())


def test_the_start_is_random_within_the_ball_or_zero():
    base, attack = torch.full((50, 3, 8, 8), 0.5), GradientMatching(eps=16)
    start = Perturbation(base, SCALE, attack, generator(1)).delta * 255 / 16
    assert start.abs().max() <= 1 + 1e-6
    histogram = torch.histc(start, 10, -1, 1)
    assert (histogram / start.numel() - 0.1).abs().max() < 0.02
    assert torch.equal(Perturbation(base, SCALE, attack, generator(1)).delta * 255 / 16, start)
    assert not torch.equal(Perturbation(base, SCALE, attack, generator(2)).delta * 255 / 16, start)
    assert not Perturbation(base, SCALE, attack, None).delta.any()


@pytest.mark.parametrize("stop", [0, 1, 13, 29])
def test_going_on_from_a_checkpoint_equals_not_having_stopped(stop, tmp_path):
    base, attack = base_images(), GradientMatching(steps=30, eps=16)
    whole = Perturbation(base, SCALE, attack, generator())
    for number, gradient in enumerate(gradients(base, 30)):
        if number == stop:
            Checkpoint(tmp_path).save(whole.state(), {})
        whole.step(gradient)
    saved = Checkpoint(tmp_path).load()
    assert saved is not None
    resumed = Perturbation(base, SCALE, attack, generator(99))
    resumed.restore(saved[0])
    for gradient in list(gradients(base, 30))[stop:]:
        resumed.step(gradient)
    assert torch.equal(resumed.delta, whole.delta) and torch.equal(resumed.quantised(), whole.quantised())
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in resumed.state().items())
