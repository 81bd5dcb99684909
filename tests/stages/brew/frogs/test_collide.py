"""Poison Frogs: its proximal step against mathematics, its poisons on real digits with small trained surrogates."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from small_brew import INTENDED, Interrupted, context
from stages import brew, models
from stages.brew.frogs.collide import Collision, backward, collide, objective, watermarked
from stages.brew.frogs.config import PoisonFrogs
from stages.brew.task import Task
from stages.shards import poisons
from stages.training.batches import pixels, to_tensor

ATTACK = PoisonFrogs(beta0=1e-6, steps=40)
TARGETS = (0, 1)


@pytest.fixture
def brewed(dataset, base, surrogate_folders, tmp_path):
    """Brew with the first `members` surrogates, each loaded afresh."""

    def run(attack=ATTACK, members=1, targets=TARGETS, ctx=None, folder="checkpoint", **more):
        surrogates = [models.load(path) for path in surrogate_folders[:members]]
        task = Task(surrogates, base, dataset.test.of(targets), INTENDED, dataset.info.std)
        return collide(task, attack, ctx or context(tmp_path / folder), **more)

    return run


def test_the_backward_step_is_the_proximal_step():
    """argmin over [0, 1] of ½‖z - x‖² + λβ/2 ‖z - b‖², found by a general minimiser."""
    generator = torch.Generator().manual_seed(0)
    x, base = (torch.rand(3, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    x = 2 * x - 0.5  # a forward step may leave the range of pixels
    rate, beta = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64), 0.7
    found = backward(x, base, rate, beta, None)
    for row in range(3):
        b, start, weight = base[row].flatten().numpy(), x[row].flatten().numpy(), rate[row].item() * beta

        def proximal(z, b=b, start=start, weight=weight):
            return 0.5 * ((z - start) ** 2).sum() + 0.5 * weight * ((z - b) ** 2).sum()

        least = minimize(proximal, b, bounds=[(0, 1)] * 4, tol=1e-12).x
        assert np.allclose(found[row].flatten().numpy(), least, atol=1e-6)


def test_the_backward_step_of_the_ball_is_its_projection():
    x, base = torch.tensor([-1.0, 0.3, 0.9, 2.0]), torch.tensor([0.0, 0.31, 0.5, 0.98])
    found = backward(x.view(1, 1, 2, 2), base.view(1, 1, 2, 2), torch.ones(1), 0.0, 51)
    assert torch.allclose(found.flatten(), torch.tensor([0.0, 0.3, 0.7, 1.0]))


def test_the_gradient_is_that_of_the_mean_distance(dataset, base, surrogate_folders):
    """Over both surrogates and in micro-batches, against one graph of a plain formula."""
    surrogates = [models.load(folder) for folder in surrogate_folders]
    targets = pixels(to_tensor(dataset.test.of(TARGETS).array))
    x = pixels(to_tensor(base.array)).requires_grad_()
    collision = Collision.of(surrogates, targets, len(x), 7, torch.device("cpu"))
    distances, gradient = collision.measure(x)
    turns = [p % 2 for p in range(len(x))]
    naive = [((model.features(x) - model.features(targets)[turns]) ** 2).sum(1) for model in surrogates]
    assert torch.allclose(distances, torch.stack(naive).detach(), rtol=1e-4)
    (expected,) = torch.autograd.grad((sum(naive) / 2).sum(), x)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("members", [1, 2])
def test_features_come_together_and_no_poisons_objective_rises(members, brewed, base, surrogate_folders, dataset):
    parts = {
        steps: brewed(ATTACK.model_copy(update={"steps": steps}), members, folder=str(steps)) for steps in (20, 40)
    }
    end = parts[40]
    assert end.loss < 0.5 * end.losses[0] and end.loss == pytest.approx(end.loss_before, rel=0.05)
    assert end.losses[:20] == parts[20].losses and len(end.losses) == 40
    targets, clean = (pixels(to_tensor(images.array)) for images in (dataset.test.of(TARGETS), base))
    surrogates = [models.load(folder) for folder in surrogate_folders[:members]]
    collision = Collision.of(surrogates, targets, len(base), 512, torch.device("cpu"))
    beta = ATTACK.beta0 * collision.mean_square_size / 64**2
    values = [
        objective(collision.measure(images)[0], images, clean, beta)
        for images in (clean, parts[20].state["poisons"], end.state["poisons"])
    ]
    assert (values[0] > values[1]).all() and (values[1] >= values[2]).all()


def test_the_more_beta_the_nearer_to_the_base(brewed, base):
    changes = []
    for number, beta0 in enumerate((0.0, 1e-5, 1e-3, 1e3)):
        result = brewed(ATTACK.model_copy(update={"beta0": beta0}), folder=str(number))
        changes.append(np.abs(result.images.astype(int) - base.images).mean())
    assert changes == sorted(changes, reverse=True) and changes[0] > 5 and changes[-1] < 0.1


@pytest.mark.parametrize("eps", [1, 16])
def test_the_ball_holds_after_quantisation(eps, brewed, base):
    result = brewed(ATTACK.model_copy(update={"eps": eps}))
    assert np.abs(result.images.astype(int) - base.images).max() == eps
    assert result.loss < result.losses[0]


def test_a_watermark_is_laid_over_before_all_else(brewed, base, dataset):
    still = ATTACK.model_copy(update={"watermark": 0.3, "steps": 1, "learning_rate": 1e-9})
    targets = dataset.test.of(TARGETS).images
    expected = 0.7 * base.images + 0.3 * np.stack([targets[p % 2] for p in range(len(base))])
    assert np.abs(brewed(still).images - expected).max() <= 0.5 + 1e-3
    assert (
        brewed(still, folder="b").losses[0] < brewed(still.model_copy(update={"watermark": 0.0}), folder="c").losses[0]
    )
    assert torch.equal(watermarked(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.8))


def test_nothing_is_drawn_and_parts_are_the_whole(brewed, tmp_path):
    whole = brewed(ctx=context(tmp_path / "whole"))
    other = brewed(ctx=context(tmp_path / "other", seed=1, micro_batch=20))
    with pytest.raises(Interrupted):
        brewed(ctx=context(tmp_path / "killed", stop_at=7))
    resumed = brewed(ctx=context(tmp_path / "killed"))
    first = brewed(folder="first", until=9)
    second = brewed(folder="second", start=(first.state, {"losses": first.losses}))
    assert first.loss_before is None and len(first.losses) == 9
    for found in (other, resumed, second):
        assert np.array_equal(found.images, whole.images)
        assert (found.losses, found.loss_before, found.loss) == (whole.losses, whole.loss_before, whole.loss)
    split = brewed(ctx=context(tmp_path / "split", micro_batch=3))
    assert np.allclose(split.losses, whole.losses, rtol=1e-2)


def test_the_stage_writes_poisons_without_a_bound(stage_inputs, dataset, base, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    metrics = brew.run(brew.Params(attack=ATTACK, restart=0), stage_inputs, out, context(tmp_path / "checkpoint"))
    made = poisons.load(out)
    assert made.info["eps"] is None and np.array_equal(made.labels, base.labels)
    assert poisons.check(made, dataset.train, None) > 0
    losses = json.loads(Path(out, "brew.json").read_text())["losses"]
    assert metrics["start_loss"] == losses[0] > metrics["brew_loss"] == made.info["brew_loss"]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="restarts is 2, but Algorithm 1 of Poison Frogs draws nothing"):
        PoisonFrogs(restarts=2)
    with pytest.raises(
        ValueError, match=r"eps is 8 and watermark 0\.3, but eps bounds the change from the clean image"
    ):
        PoisonFrogs(eps=8, watermark=0.3)
