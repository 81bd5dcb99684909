"""The alignment is the cosine of two gradients, by any micro-batch, and leaves the network as it was."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages import models
from stages.brew.alignment import gradient_alignment
from stages.models import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training.batches import pixels, to_tensor


@pytest.fixture(scope="module")
def digits(digits_folder):
    return base_shards.load(digits_folder)


@pytest.fixture
def model(digits):
    return models.build(Network(name="convnet", width=8, depth=3, batch_norm=True), digits.info, 5)


def context(folder, micro_batch=512):
    return Context(0, Runtime(device="cpu", micro_batch=micro_batch), Checkpoint(folder))


def by_hand(model, images, labels):
    loss = cross_entropy(model(pixels(to_tensor(images.array))), labels)
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("micro_batch", [7, 512])
def test_it_is_the_cosine_of_both_gradients(model, digits, tmp_path, micro_batch):
    poisons, targets = digits.train.of(range(40)), digits.test.of([3, 5])
    found = gradient_alignment(model, poisons, targets, 3, context(tmp_path, micro_batch))
    model.eval()
    first = by_hand(model, poisons, torch.from_numpy(poisons.labels.copy()))
    second = by_hand(model, targets, torch.tensor([3, 3]))
    assert found == pytest.approx(torch.cosine_similarity(first, second, dim=0).item(), abs=1e-5)
    assert abs(found) > 1e-3


def test_the_same_images_called_the_same_agree(model, digits, tmp_path):
    some = digits.train.of([2])
    assert gradient_alignment(model, some, some, int(some.labels[0]), context(tmp_path)) == pytest.approx(1)


def test_the_network_is_left_as_it_was(model, digits, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    gradient_alignment(model, digits.train.of(range(8)), digits.test.of([0]), 1, context(tmp_path))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
