"""The private variant and weighted layers within a surrogate's term, against the formulas written out in float64."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from small_brew import ATTACK, INTENDED, context
from smooth_network import INFO, P, distance, random_images, smooth_network
from stages import models
from stages.brew.config import DoubleBackward, FiniteDifference, GradientMatching, Private
from stages.brew.craft import craft
from stages.brew.objectives import OBJECTIVES, inner
from stages.brew.private import draw_noise, made_private
from stages.brew.task import Task
from stages.brew.terms import term_of
from stages.data.images import ImageSet

WAYS = [DoubleBackward(), FiniteDifference(h_rel=1e-4)]
LAYERS = {"body": 0.25, "body.0": 0.0, "head.bias": 4.0}
TARGET = ImageSet(np.full((1, *INFO.shape), 200, np.uint8), np.zeros(1, np.int64), np.arange(1))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def term(tmp_path, micro_batch=5, **fields):
    """The term of the smooth network, and the images and labels of its poisons."""
    images, labels = random_images(P, 1)
    base = ImageSet(np.zeros((P, *INFO.shape), np.uint8), labels.numpy(), np.arange(P))
    model = smooth_network()
    # What is of the targets is worked out in float64, as the network is.
    torch.set_default_dtype(torch.float64)
    try:
        made = term_of(
            model,
            Task([model], base, TARGET, 1, INFO.std),
            GradientMatching.model_validate(fields),
            context(tmp_path, micro_batch=micro_batch),
        )
    finally:
        torch.set_default_dtype(torch.float32)
    return model, made, images, labels


def gradients(model, images, labels):
    """The poison gradient, differentiable in the images, and the adversarial gradient; by parameter name."""
    named = dict(model.named_parameters())
    for parameter in named.values():
        parameter.requires_grad_(True)
    target = torch.from_numpy(TARGET.images).permute(0, 3, 1, 2).float().div(255).double()
    t = torch.autograd.grad(cross_entropy(model(target), torch.tensor([1])), list(named.values()))
    g = torch.autograd.grad(cross_entropy(model(images), labels), list(named.values()), create_graph=True)
    return dict(zip(named, g, strict=True)), dict(zip(named, t, strict=True))


def flat(gradient):
    return torch.cat([tensor.flatten() for tensor in gradient])


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.kind)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_layers_weigh_the_inner_products(objective, how, tmp_path):
    model, made, images, labels = term(tmp_path, objective=objective, derivative=how, layers=LAYERS)
    x = images.clone().requires_grad_()
    left_alone = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert left_alone == ["body.0.weight", "body.0.bias"], "what weighs nothing costs no gradient"
    value, derivative = made.derivative(images, generator())
    assert made.value(images, generator()) == pytest.approx(value, rel=1e-12)

    g, t = gradients(model, x, labels)
    weigh = {name: 0.25 if name.startswith("body") else 1.0 for name in g}
    weigh |= {"body.0.weight": 0.0, "body.0.bias": 0.0, "head.bias": 4.0}

    def product(a, b):
        return sum(weigh[name] * (a[name] * b[name]).sum() for name in g)

    if objective == "cosine":
        expected = 1 - product(g, t) / (product(g, g) * product(t, t)).sqrt()
    else:
        off = {name: g[name] - t[name] for name in g}
        expected = 0.5 * product(off, off) / product(t, t)
    (slope,) = torch.autograd.grad(expected, x)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    assert distance(derivative, slope) < 1e-4


@pytest.mark.parametrize("how", WAYS, ids=lambda how: how.kind)
@pytest.mark.parametrize("clip", [1e-2, 1e2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_private_gradient_is_clipped_and_noised_before_b_is_taken(objective, clip, how, tmp_path):
    private = {"clip": clip, "noise": 0.01}
    model, made, images, labels = term(tmp_path, objective=objective, derivative=how, private=private)
    value, derivative = made.derivative(images, generator(3))
    assert made.value(images, generator(3)) == pytest.approx(value, rel=1e-12)
    assert made.value(images, generator(4)) != pytest.approx(value, rel=1e-6), "another draw is another B"

    x = images.clone().requires_grad_()
    g, t = (flat(list(found.values())) for found in gradients(model, x, labels))
    assert (g.norm() > clip) == (clip < 1), "one of the two clips"
    same = generator(3)
    z = flat([torch.randn(parameter.shape, generator=same) for parameter in model.parameters()]).double()
    seen = g * torch.clamp(clip / g.norm(), max=1) + clip * 0.01 * z
    if objective == "cosine":
        expected = 1 - torch.cosine_similarity(seen, t, dim=0)
    else:
        expected = 0.5 * (seen - t).square().sum() / t.square().sum()
    (slope,) = torch.autograd.grad(expected, x)
    assert value == pytest.approx(expected.item(), rel=1e-8)
    assert distance(derivative, slope) < 1e-3


def test_noise_has_the_deviation_that_is_asked_for():
    private = Private(clip=2.0, noise=0.05)
    like = [torch.zeros(300, 300), torch.zeros(10_000)]
    first, second = draw_noise(private, like, generator())
    for drawn in (first, second):
        assert drawn.std().item() == pytest.approx(0.1, rel=0.03)
        assert abs(drawn.mean().item()) < 4 * 0.1 / drawn.numel() ** 0.5
    correlation = torch.corrcoef(torch.stack([first.flatten()[:10_000], second]))[0, 1]
    assert abs(correlation.item()) < 4 / 100, "each parameter has noise of its own"


def test_clipping_shortens_what_is_long_and_leaves_the_rest():
    gradient = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    none = [torch.zeros_like(tensor) for tensor in gradient]
    clipped = made_private(gradient, Private(clip=1.0, noise=0.0), none)
    assert inner(clipped, clipped).item() == pytest.approx(1.0)
    assert flat(clipped).tolist() == pytest.approx([0.6, 0, 0.8])
    assert torch.equal(flat(made_private(gradient, Private(clip=6.0, noise=0.0), none)), flat(gradient))


def test_every_step_and_every_surrogate_draws_noise_of_its_own(dataset, base, surrogate_folders, tmp_path):
    """Poisons that hardly move show only the noise; two surrogates that are one network show two draws."""

    def losses(members, noise):
        still = {"step_size": 1e-7, "augmentation": None, "steps": 3, "private": Private(noise=noise)}
        surrogates = [models.load(surrogate_folders[0]) for _ in range(members)]
        task = Task(surrogates, base, dataset.test.of([0]), INTENDED, dataset.info.std)
        ctx = context(tmp_path / f"{members} {noise}")
        return craft(task, ATTACK.model_copy(update=still), ctx).losses

    assert len(set(np.round(losses(1, 0.0), 4))) == 1
    noisy, twice = losses(1, 0.05), losses(2, 0.05)
    assert len(set(np.round(noisy, 4))) == 3
    assert not np.isclose(noisy, twice, rtol=1e-3).any()
