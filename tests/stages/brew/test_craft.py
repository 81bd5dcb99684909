"""Brewing on real digits with small trained surrogates: what B does, and what an interruption does not."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from small_brew import ATTACK, INTENDED, Interrupted, context
from stages import brew, models
from stages.brew.config import DoubleBackward, FiniteDifference
from stages.brew.craft import craft
from stages.brew.task import Task
from stages.shards import poisons
from stages.stage import Checkpoint, Context, Runtime
from stages.training import loop

TARGETS = (0, 1)


@pytest.fixture
def brewed(dataset, base, surrogate_folders, tmp_path):
    """Brew with the first `members` surrogates, each loaded afresh."""

    def run(attack=ATTACK, members=1, targets=TARGETS, ctx=None, folder="checkpoint", start=0):
        surrogates = [models.load(path) for path in surrogate_folders[start : start + members]]
        ctx = ctx or context(tmp_path / folder)
        return craft(
            Task(surrogates, base, dataset.test.of(np.array(targets)), INTENDED, dataset.info.std), attack, ctx
        )

    return run


def assert_same(first, second):
    assert np.array_equal(first.images, second.images)
    assert (first.losses, first.loss_before, first.loss) == (second.losses, second.loss_before, second.loss)


@pytest.mark.parametrize("derivative", [DoubleBackward(), FiniteDifference(), FiniteDifference(sides=1)])
@pytest.mark.parametrize("objective", ["cosine", "squared-euclidean"])
def test_b_falls_within_the_bounds(derivative, objective, brewed, base):
    attack = ATTACK.model_copy(update={"derivative": derivative, "objective": objective, "steps": 30})
    result = brewed(attack)
    assert result.images.dtype == np.uint8 and result.images.shape == base.images.shape
    assert np.abs(result.images.astype(int) - base.images).max() == 32
    assert len(result.losses) == 30
    start, end = np.mean(result.losses[:3]), np.mean(result.losses[-3:])
    assert end < 0.9 * start and result.loss < start
    assert result.loss == pytest.approx(result.loss_before, rel=0.05)


def test_poisons_are_a_function_of_the_seed(brewed, tmp_path):
    first, again = brewed(folder="a"), brewed(folder="b")
    assert_same(first, again)
    other = brewed(ctx=context(tmp_path / "c", seed=1))
    assert not np.array_equal(first.images, other.images) and first.losses != other.losses


@pytest.mark.parametrize("augmentation", [ATTACK.augmentation, None])
@pytest.mark.parametrize("derivative", [DoubleBackward(), FiniteDifference()])
def test_resuming_in_mid_brew_equals_not_having_stopped(derivative, augmentation, brewed, tmp_path):
    attack = ATTACK.model_copy(update={"derivative": derivative, "augmentation": augmentation})
    whole = brewed(attack, folder="whole")
    for stop_at in (1, 7):
        with pytest.raises(Interrupted):
            brewed(attack, ctx=context(tmp_path / "parts", stop_at=stop_at))
    done = []
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path / "parts"), lambda *report: done.append(report[0]))
    resumed = brewed(attack, ctx=ctx)
    assert done == list(range(8, 13))
    assert_same(resumed, whole)


def test_an_ensemble_steps_along_the_sum_of_its_members_gradients(brewed, surrogate_folders, dataset, base):
    """One long step from 0 ends on the ball's surface, where its sign shows."""
    attack = ATTACK.model_copy(
        update={"steps": 1, "start": "zero", "augmentation": None, "step_size": 9.0, "derivative": DoubleBackward()}
    )
    x = (torch.tensor(base.images).permute(0, 3, 1, 2) / 255).requires_grad_()
    slopes, losses = [], []
    for folder in surrogate_folders:
        model = models.load(folder)
        parameters = list(model.parameters())
        target = torch.tensor(dataset.test.of(TARGETS).images).permute(0, 3, 1, 2) / 255
        wanted = torch.full((len(TARGETS),), INTENDED)
        t = torch.autograd.grad(cross_entropy(model(target), wanted), parameters)
        g = torch.autograd.grad(cross_entropy(model(x), torch.tensor(base.labels)), parameters, create_graph=True)
        g, t = (torch.cat([part.flatten() for part in parts]) for parts in (g, t))
        B = 1 - torch.cosine_similarity(g, t, dim=0)
        losses.append(B.item())
        slopes.append(torch.autograd.grad(B, x)[0])
    both, first = (brewed(attack, members, folder=str(members)) for members in (2, 1))
    assert both.losses == pytest.approx([np.mean(losses)], rel=1e-4)
    for result, slope in ((both, sum(slopes)), (first, slopes[0])):
        change = -32 * slope.sign().permute(0, 2, 3, 1).int().numpy()
        expected = np.clip(base.images.astype(int) + change, 0, 255)
        assert (result.images == expected).mean() > 0.99
    assert (both.images == first.images).mean() < 0.95


def test_every_step_has_a_draw_of_its_own(brewed):
    """Poisons that hardly move show only the augmentation."""
    still = ATTACK.model_copy(update={"step_size": 1e-7})
    assert len(set(np.round(brewed(still).losses, 4))) > 6


def test_several_targets_are_matched_by_their_mean_gradient(brewed, surrogate_folders, dataset, base):
    """B at the first step, worked out from the targets' own gradients one by one."""
    attack = ATTACK.model_copy(update={"steps": 1, "start": "zero", "augmentation": None})
    model = models.load(surrogate_folders[0])

    def gradient(images, labels):
        inputs = torch.tensor(images).permute(0, 3, 1, 2) / 255
        loss = cross_entropy(model(inputs), torch.tensor(labels))
        parts = torch.autograd.grad(loss, list(model.parameters()))
        return torch.cat([part.flatten() for part in parts]).double().numpy()

    targets = (0, 1, 5)
    t = np.mean([gradient(dataset.test.of([number]).images, [INTENDED]) for number in targets], axis=0)
    g = gradient(base.images, base.labels)
    expected = 1 - g @ t / (np.linalg.norm(g) * np.linalg.norm(t))
    assert brewed(attack, targets=targets).losses == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("derivative", [DoubleBackward(), FiniteDifference(), FiniteDifference(sides=1)])
def test_the_micro_batch_bounds_every_pass_and_leaves_the_result(
    derivative, dataset, base, surrogate_folders, tmp_path
):
    attack = ATTACK.model_copy(update={"derivative": derivative, "steps": 1})
    losses = []
    for micro_batch in (100, 7, 1):
        model = models.load(surrogate_folders[0])
        sizes = []
        model.register_forward_pre_hook(lambda _, inputs, sizes=sizes: sizes.append(len(inputs[0])))
        ctx = context(tmp_path / str(micro_batch), micro_batch=micro_batch)
        targets = dataset.test.of(range(8))
        result = craft(Task([model], base, targets, INTENDED, dataset.info.std), attack, ctx)
        assert max(sizes) == min(micro_batch, len(base))
        losses.append([*result.losses, result.loss_before])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_surrogates_and_random_states_are_left_as_they_were(dataset, base, surrogate_folders, tmp_path):
    model, untouched = (models.load(surrogate_folders[0]) for _ in range(2))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    craft(Task([model], base, dataset.test.of(TARGETS), INTENDED, dataset.info.std), ATTACK, context(tmp_path))
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), untouched.state_dict().values(), strict=True)
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), torch_state)
    for ours, theirs in zip(np.random.get_state(), numpy_state, strict=True):  # noqa: NPY002
        assert np.array_equal(ours, theirs)


def test_a_target_already_called_by_its_intended_class_is_refused(brewed, dataset, surrogate_folders, tmp_path):
    """Carlini & Wagner's loss is 0 there, and so is its gradient."""
    logits = loop.predict(models.load(surrogate_folders[0]), dataset.test, context(tmp_path))
    taken = int((logits.argmax(1) == INTENDED).nonzero()[0])
    attack = ATTACK.model_copy(update={"adversarial_loss": "carlini-wagner", "steps": 2})
    with pytest.raises(ArithmeticError, match=r"carlini-wagner loss on the target is 0, .* choose another case"):
        brewed(attack, targets=(taken,))
    other = int((logits.argmax(1) != INTENDED).nonzero()[0])
    assert len(brewed(attack, targets=(other,)).losses) == 2


@pytest.mark.parametrize("derivative", [DoubleBackward(), FiniteDifference()])
def test_a_surrogate_that_is_certain_of_the_poisons_is_an_error(derivative, dataset, base, surrogate_folders, tmp_path):
    """Its gradient over them is 0, so B is not a number; a step on it would go nowhere."""
    model = models.load(surrogate_folders[0])
    with torch.no_grad():
        model.head.bias[INTENDED] += 1000
    attack = ATTACK.model_copy(update={"derivative": derivative})
    with pytest.raises(FloatingPointError, match="B is nan at step 1: the poison gradient of a surrogate is 0"):
        craft(Task([model], base, dataset.test.of(TARGETS), 4, dataset.info.std), attack, context(tmp_path))


PROGRAM = """
import json, sys
from pathlib import Path
import torch
from stages import brew
from stages.stage import Checkpoint, Context, Runtime
given = json.loads(sys.argv[1])
torch.set_num_threads(given["threads"])
params = brew.Params.model_validate(given["params"])
inputs = {role: Path(folder) for role, folder in given["inputs"].items()}
out = Path(given["out"])
brew.run(params, inputs, out, Context(params.seed, Runtime(device="cpu"), Checkpoint(out / "checkpoint")))
"""


def test_the_stage_gives_the_same_files_in_another_process(stage_inputs, dataset, base, tmp_path):
    params = brew.Params(attack=ATTACK, restart=1)
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    metrics = brew.run(params, stage_inputs, here, context(tmp_path / "checkpoint", params.seed))
    given = {
        "params": params.model_dump(),
        "inputs": {role: str(folder) for role, folder in stage_inputs.items()},
        "out": str(there),
        "threads": torch.get_num_threads(),
    }
    subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(given)], check=True)
    for name in ("poisons.arrow", "poisons.json", "brew.json"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    made = poisons.load(here)
    assert np.array_equal(made.ids, base.ids) and np.array_equal(made.labels, base.labels)
    assert poisons.check(made, dataset.train, ATTACK.eps) > 0
    losses = json.loads((here / "brew.json").read_text())["losses"]
    assert len(losses) == ATTACK.steps and metrics["start_loss"] == losses[0]
    assert metrics["brew_loss"] == made.info["brew_loss"] < max(losses) and metrics["poisons"] == len(base)


def test_restarts_have_seeds_of_their_own():
    seeds = {
        brew.Params(attack=ATTACK.model_copy(update={"seed": seed}), restart=k).seed for seed in (0, 1) for k in (0, 1)
    }
    assert len(seeds) == 4
