"""Objectives on features: the derivative against the naive formula in float64, and a brew's first B on real digits."""

import numpy as np
import pytest
import torch

from small_brew import ATTACK, INTENDED, context
from smooth_network import P, distance, random_images, smooth_network
from stages import models
from stages.brew.craft import craft
from stages.brew.features import feature_derivative, features_of
from stages.brew.objectives import FEATURE_OBJECTIVES
from stages.brew.task import Task


def naive(name, features, target):
    """The papers' formulas, a poison at a time."""
    if name == "feature-collision":
        distances = [(one - target).norm() ** 2 for one in features]
        return sum(distances) / len(features) / (2 * target.norm() ** 2)
    return (target - sum(features) / len(features)).norm() ** 2 / (2 * target.norm() ** 2)


@pytest.fixture(scope="module")
def model():
    return smooth_network()


@pytest.mark.parametrize("micro_batch", [1, 5, P, 100])
@pytest.mark.parametrize("name", FEATURE_OBJECTIVES)
def test_the_derivative_is_that_of_the_naive_formula_whatever_the_micro_batch(name, micro_batch, model):
    images, _ = random_images(P, 1)
    target = features_of(model, random_images(1, 7)[0], 1)[0]
    x = images.clone().requires_grad_()
    expected = naive(name, model.features(x), target)
    (slope,) = torch.autograd.grad(expected, x)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    largest = 0

    def note(_, inputs):
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    hook = model.body.register_forward_pre_hook(note)
    value, derivative = feature_derivative(
        model, images, lambda features: FEATURE_OBJECTIVES[name](features, target), micro_batch
    )
    hook.remove()
    assert value == pytest.approx(expected.item(), rel=1e-12) and distance(derivative, slope) < 1e-12
    assert largest == min(micro_batch, P)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", FEATURE_OBJECTIVES)
def test_a_brew_begins_at_the_formula_over_surrogates_and_targets(name, dataset, base, surrogate_folders, tmp_path):
    """B at the first step, from what the networks make of each image alone."""
    surrogates = [models.load(folder) for folder in surrogate_folders]
    targets = dataset.test.of([0, 1, 5])

    def features(model, images):
        inputs = torch.tensor(images).permute(0, 3, 1, 2) / 255
        return [model.features(image[None])[0].detach().double() for image in inputs]

    expected = [
        naive(name, features(model, base.images), sum(features(model, targets.images)) / 3).item()
        for model in surrogates
    ]
    attack = ATTACK.model_copy(update={"objective": name, "steps": 1, "start": "zero", "augmentation": None})
    result = craft(Task(surrogates, base, targets, INTENDED, dataset.info.std), attack, context(tmp_path))
    assert result.losses == pytest.approx([np.mean(expected)], rel=1e-4)
    assert expected[0] != pytest.approx(expected[1], rel=1e-3), "the surrogates differ, so their mean was seen"


def test_a_target_without_features_is_refused(dataset, base, surrogate_folders, tmp_path):
    model = models.load(surrogate_folders[0])
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.zero_()
    attack = ATTACK.model_copy(update={"objective": "bullseye"})
    with pytest.raises(ArithmeticError, match="features of the target are all 0"):
        craft(Task([model], base, dataset.test.of([0]), INTENDED, dataset.info.std), attack, context(tmp_path))
