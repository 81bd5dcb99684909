"""The mixed derivative on a smooth network in float64, where the textbook formula is exact to many digits."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from smooth_network import P, distance, random_images, smooth_network
from stages.brew.config import DoubleBackward, FiniteDifference
from stages.brew.derivatives import mixed_derivative, poison_gradient
from stages.brew.objectives import OBJECTIVES

WAYS = {
    "double-backward": DoubleBackward(),
    "two-sided": FiniteDifference(sides=2, h_rel=1e-4),
    "one-sided": FiniteDifference(sides=1, h_rel=1e-7),
}
TOLERANCE = {"double-backward": 1e-10, "two-sided": 1e-4, "one-sided": 1e-4}


@pytest.fixture(scope="module")
def model():
    return smooth_network()


@pytest.fixture(params=list(OBJECTIVES))
def matching(request, model):
    """B as a function of the poison gradient, for a target's gradient of this network."""
    target, _ = random_images(1, 7)
    wanted = torch.tensor([1])
    adversarial = torch.autograd.grad(cross_entropy(model(target), wanted), list(model.parameters()))
    return lambda gradient: OBJECTIVES[request.param](gradient, adversarial)


def textbook(model, images, labels, matching):
    """B and dB/dx as the formula stands: differentiate the loss by θ, then B of that by x."""
    x = images.clone().requires_grad_()
    loss = cross_entropy(model(x), labels)
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    B = matching(gradient)
    return B.item(), torch.autograd.grad(B, x)[0]


@pytest.mark.parametrize("micro_batch", [1, 5, P, 100])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_textbook_derivative(way, micro_batch, model, matching):
    images, labels = random_images(P, 1)
    B, expected = textbook(model, images, labels, matching)
    value, derivative = mixed_derivative(WAYS[way], model, images, labels, matching, micro_batch)
    assert value == pytest.approx(B, rel=1e-10)
    assert derivative.shape == images.shape and distance(derivative, expected) < TOLERANCE[way]


@pytest.mark.parametrize("way", WAYS)
def test_the_derivative_is_the_numeric_one_along_random_directions(way, model, matching):
    images, labels = random_images(P, 1)

    def value(x):
        return matching(poison_gradient(model, x, labels, P)).item()

    _, derivative = mixed_derivative(WAYS[way], model, images, labels, matching, 5)
    step = 1e-5
    for seed in range(3):
        direction = random_images(P, seed + 50)[0] - 0.5
        numeric = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
        assert (derivative * direction).sum().item() == pytest.approx(numeric, rel=1e-3)


@pytest.mark.parametrize(("sides", "order"), [(1, 1), (2, 2)])
def test_the_error_falls_with_the_steps_own_order(sides, order, model, matching):
    images, labels = random_images(P, 1)
    _, exact = textbook(model, images, labels, matching)

    def error(h_rel):
        how = FiniteDifference(sides=sides, h_rel=h_rel)
        return distance(mixed_derivative(how, model, images, labels, matching, P)[1], exact)

    assert error(2e-4) / error(1e-4) == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_network_is_left_bit_for_bit_as_it_was(way, batch_norm, matching):
    model = smooth_network(batch_norm)
    images, labels = random_images(P, 1)
    if not batch_norm:  # the fixture's gradient is of the other network
        target = [torch.ones_like(parameter) for parameter in model.parameters()]

        def matching(gradient):
            return OBJECTIVES["cosine"](gradient, target)

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mixed_derivative(WAYS[way], model, images, labels, matching, 5)
    assert_untouched(model, before)
    assert not images.requires_grad and images.grad is None


@pytest.mark.parametrize("passes", range(1, 9))
@pytest.mark.parametrize("way", WAYS)
def test_an_interruption_at_any_pass_leaves_the_network_as_it_was(way, passes, model, matching):
    images, labels = random_images(P, 1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    left = passes

    def interrupt(*_):
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    total = {"double-backward": 6, "two-sided": 9, "one-sided": 6}[way]
    try:
        if passes <= total:
            with pytest.raises(KeyboardInterrupt):
                mixed_derivative(WAYS[way], model, images, labels, matching, 5)
        else:
            mixed_derivative(WAYS[way], model, images, labels, matching, 5)
            assert passes - left == total
    finally:
        hook.remove()
    assert_untouched(model, before)


def assert_untouched(model, before):
    after = model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model.training


@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_for_backward_is_bounded_by_the_micro_batch(way, model, matching):
    micro_batch = 4

    def most_kept(count):
        images, labels = random_images(count, 1)
        kept = most = 0
        largest = 0

        def note(_, inputs):
            nonlocal kept, largest
            kept, largest = 0, max(largest, len(inputs[0]))  # each forward pass begins a graph of its own

        def pack(tensor):
            nonlocal kept, most
            kept += tensor.numel()
            most = max(most, kept)
            return tensor

        hook = model.register_forward_pre_hook(note)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            mixed_derivative(WAYS[way], model, images, labels, matching, micro_batch)
        hook.remove()
        assert largest == min(count, micro_batch)
        return most

    assert most_kept(40) == most_kept(8) < 2 * most_kept(4)


def test_the_poison_gradient_is_of_the_mean_loss_whatever_the_micro_batch(model):
    images, labels = random_images(P, 1)
    expected = torch.autograd.grad(cross_entropy(model(images), labels), list(model.parameters()))
    for micro_batch in (1, 5, P):
        found = poison_gradient(model, images, labels, micro_batch)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sides", [1, 2])
def test_no_direction_gives_no_derivative(sides, model):
    """At its minimum B has no slope, and the step along it no length."""
    images, labels = random_images(P, 1)
    reached = poison_gradient(model, images, labels, 5)
    value, derivative = mixed_derivative(
        FiniteDifference(sides=sides),
        model,
        images,
        labels,
        lambda gradient: OBJECTIVES["squared-euclidean"](gradient, reached),
        5,
    )
    assert value == 0 and not derivative.any()
