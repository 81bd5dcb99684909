"""The gradient through unrolled steps: against finite differences, against differentiation of all at once, and
against gradient matching's mixed derivative, all in float64."""

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from stages import models
from stages.brew.derivatives import double_backward
from stages.brew.meta.lookahead import Labelled, lookahead
from stages.brew.objectives import ADVERSARIAL_LOSSES, inner
from stages.data.images import DatasetInfo
from stages.models import Network

INFO = DatasetInfo("random", tuple("abc"), (8, 8, 1), (0.5,), (0.3,))
RATE = 0.3
ROWS = torch.tensor([1, 4])


def network(batch_norm=False):
    model = models.build(
        Network(name="convnet", width=3, depth=3, activation="softplus", batch_norm=batch_norm), INFO, 0
    )
    return model.double()


def labelled(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return Labelled(inputs, torch.randint(0, 3, (count,), generator=generator))


BATCHES = [labelled(6, 1), labelled(5, 2), labelled(6, 3)]
TARGETS = labelled(2, 4)


def at_once(model, batches, adversarial, poisons):
    """The adversarial loss as one expression in the poisons, with the graph of all steps."""
    weights = dict(model.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    first = Labelled(batches[0].inputs.index_put((ROWS,), poisons), batches[0].labels)
    for batch in (first, *batches[1:]):
        model.train()
        loss = cross_entropy(functional_call(model, {**weights, **buffers}, (batch.inputs,)), batch.labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: w - RATE * slope for (name, w), slope in zip(weights.items(), slopes, strict=True)}
    model.eval()
    return adversarial(functional_call(model, {**weights, **buffers}, (TARGETS.inputs,)), TARGETS.labels)


@pytest.mark.parametrize("loss", ADVERSARIAL_LOSSES)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_it_is_the_derivative_of_all_steps_at_once(steps, batch_norm, loss):
    model, adversarial = network(batch_norm), ADVERSARIAL_LOSSES[loss]
    poisons = BATCHES[0].inputs[ROWS].clone().requires_grad_()
    expected = at_once(model, BATCHES[:steps], adversarial, poisons)
    (slope,) = torch.autograd.grad(expected, poisons)
    value, found = lookahead(model, BATCHES[:steps], ROWS, RATE, TARGETS, adversarial)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    assert found.abs().max() > 0
    assert torch.allclose(found, slope, rtol=1e-9, atol=1e-14)


def test_it_is_what_a_finite_difference_says():
    model, adversarial = network(), ADVERSARIAL_LOSSES["cross-entropy"]
    _, found = lookahead(model, BATCHES, ROWS, RATE, TARGETS, adversarial)

    def value(change):
        moved = Labelled(BATCHES[0].inputs.index_add(0, ROWS, change), BATCHES[0].labels)
        return lookahead(model, [moved, *BATCHES[1:]], ROWS, RATE, TARGETS, adversarial)[0]

    for seed in range(3):
        way = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected = (value(1e-4 * way) - value(-1e-4 * way)) / 2e-4
        assert (found * way).sum().item() == pytest.approx(expected, rel=1e-5)


def test_of_one_step_it_is_the_rate_times_the_mixed_derivative_of_gradient_matching():
    """-α d/dx ⟨λ, ∇θ L(x)⟩ with λ the slope of the adversarial loss after the step; here all images are poisons."""
    model, batch = network(), BATCHES[0]
    adversarial = ADVERSARIAL_LOSSES["cross-entropy"]
    _, found = lookahead(model, [batch], torch.arange(6), RATE, TARGETS, adversarial)
    parameters = list(model.parameters())
    step = torch.autograd.grad(cross_entropy(model(batch.inputs), batch.labels), parameters)
    after = [(p - RATE * s).detach().requires_grad_() for p, s in zip(parameters, step, strict=True)]
    names = [name for name, _ in model.named_parameters()]
    logits = functional_call(model, dict(zip(names, after, strict=True)), (TARGETS.inputs,))
    aim = torch.autograd.grad(adversarial(logits, TARGETS.labels), after)
    _, mixed = double_backward(model, batch.inputs, batch.labels, lambda gradient: inner(gradient, aim), 512)
    assert torch.allclose(found, -RATE * mixed, rtol=1e-9, atol=1e-14)


def test_the_network_is_left_as_it_was():
    model, untouched = network(batch_norm=True), network(batch_norm=True)
    model.train()
    lookahead(model, BATCHES, ROWS, RATE, TARGETS, ADVERSARIAL_LOSSES["carlini-wagner"])
    for (name, ours), theirs in zip(model.state_dict().items(), untouched.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
