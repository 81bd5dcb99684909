"""The training loop on real digits: it learns, and an interruption leaves no trace."""

import numpy as np
import pytest
import torch
from torch import nn

from stages import models
from stages.config import InputError
from stages.data.images import Dataset
from stages.models import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training import loop
from stages.training.config import Augmentation, Constant, Cosine, Training

PLAIN = Augmentation(flip=False, pad=0)
SHAKY = Training(epochs=4, batch_size=64, schedule=Cosine(warmup=0.3), augmentation=Augmentation(flip=True, pad=1))
RATE = 0.05


class Interrupted(BaseException):
    """As a killed process: nothing in the loop may catch it."""


@pytest.fixture(scope="module")
def digits(digits_folder) -> Dataset:
    return base_shards.load(digits_folder)


@pytest.fixture(scope="module")
def few(digits):
    """200 images to train on, enough to tell two trainings apart."""
    return digits.train.of(range(200))


def network(digits, seed=0):
    return models.build(Network(name="convnet-bn", width=4), digits.info, seed)


def small_network(digits):
    """Without batch normalisation, which amplifies rounding."""
    return models.build(Network(name="convnet", width=16, depth=3), digits.info, 0)


def with_dropout(seed=0):
    """A small network that draws from torch's global generator while it trains."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 10))


def context(folder, seed=0, stop_at=None, **runtime):
    def report(done, total, figures):
        if done == stop_at:
            raise Interrupted

    return Context(seed, Runtime(device="cpu", checkpoint_seconds=0, **runtime), Checkpoint(folder), report)


def assert_same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def assert_same_history(ours, theirs):
    assert ours.curves() == theirs.curves()
    assert len(ours.watched_logits) == len(theirs.watched_logits)
    assert all(torch.equal(a, b) for a, b in zip(ours.watched_logits, theirs.watched_logits, strict=True))


def test_it_learns_digits(digits, tmp_path):
    model = small_network(digits)
    ctx = context(tmp_path)
    history = loop.train(model, digits.train, Training(epochs=4, batch_size=32, augmentation=PLAIN), RATE, ctx)
    assert history.loss[-1] < 0.2 * history.loss[0] and history.accuracy[-1] > 0.95
    right = loop.predict(model, digits.test, ctx).argmax(1).numpy() == digits.test.labels
    assert right.mean() > 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("build", [network, lambda digits: with_dropout()], ids=["batch-norm", "dropout"])
def test_resuming_equals_not_having_stopped(build, optimizer, digits, few, tmp_path):
    training = SHAKY.model_copy(update={"optimizer": optimizer})
    rate = RATE if optimizer == "sgd" else 0.003
    whole = build(digits)
    expected = loop.train(whole, few, training, rate, context(tmp_path / "a"), watch=digits.test, watch_every=1)
    for stop_at in (1, 3):
        with pytest.raises(Interrupted):
            loop.train(build(digits), few, training, rate, context(tmp_path / "b", stop_at=stop_at), watch=digits.test)
    done = []
    last = build(digits)
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path / "b"), lambda *report: done.append(report[:2]))
    history = loop.train(last, few, training, rate, ctx, watch=digits.test)
    assert done == [(4, 4)]
    assert_same(last, whole)
    assert_same_history(history, expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_training_killed_at_any_batch_goes_on_there(groups, digits, few, tmp_path):
    """4 epochs of 4 batches, killed before each of them in turn: 16 processes' worth, one batch each."""
    training = SHAKY.model_copy(update={"batch_norm_groups": groups})

    def build():
        """Batch normalisation and dropout."""
        model = network(digits)
        model.body.append(nn.Dropout(0.3))
        return model

    whole = build()
    expected = loop.train(whole, few, training, RATE, context(tmp_path / "whole"), watch=digits.test)
    for _ in range(15):
        model, trained = build(), []

        def stop_at_second(_, inputs, model=model, trained=trained):
            if model.training:
                trained.append(len(inputs[0]))
                if len(trained) == 2:
                    raise Interrupted

        model.register_forward_pre_hook(stop_at_second)
        with pytest.raises(Interrupted):
            loop.train(model, few, training, RATE, context(tmp_path / "parts"), watch=digits.test)
    kept = Checkpoint(tmp_path / "parts").load()
    assert (kept[1]["epoch"], kept[1]["batch"]) == (3, 3)
    last = build()
    history = loop.train(last, few, training, RATE, context(tmp_path / "parts"), watch=digits.test)
    assert_same(last, whole)
    assert_same_history(history, expected)


def test_a_machine_about_to_go_makes_a_training_save_once(digits, few, tmp_path):
    saves, asked = [], []

    class Counted(Checkpoint):
        def save(self, tensors, facts):
            super().save(tensors, facts)
            saves.append((facts["epoch"], facts["batch"]))

    def hurry():
        asked.append(None)
        return len(asked) > 6

    ctx = Context(0, Runtime(device="cpu"), Counted(tmp_path), hurry=hurry)
    loop.train(network(digits), few, SHAKY, RATE, ctx)
    assert saves == [(1, 3)], "at the seventh of the places where it may save, and nowhere else"


def test_groups_change_batch_normalisation_alone(digits, few, tmp_path):
    """Two groups are what two workers do that do not synchronise, and 1 is torch's own."""
    training = SHAKY.model_copy(update={"epochs": 1})
    losses = {}
    for name, build in (("norm", network), ("none", small_network)):
        for groups in (1, 2):
            changed = training.model_copy(update={"batch_norm_groups": groups})
            ctx = context(tmp_path / f"{name}{groups}")
            losses[name, groups] = loop.train(build(digits), few, changed, RATE, ctx).loss
    assert losses["none", 1] == losses["none", 2]
    assert losses["norm", 1] != losses["norm", 2] == pytest.approx(losses["norm", 1], rel=0.2)


def test_stop_after_is_the_beginning_of_the_same_schedule(digits, few, tmp_path):
    states = []
    model = network(digits)
    report = lambda done, *_: states.append({name: t.clone() for name, t in model.state_dict().items()})  # noqa: E731
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path / "a"), report)
    whole = loop.train(model, few, SHAKY, RATE, ctx)
    part = network(digits)
    history = loop.train(part, few, SHAKY, RATE, context(tmp_path / "b"), stop_after=2)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in part.state_dict().items())
    assert [history.loss, history.rate] == [whole.loss[:2], whole.rate[:2]]


@pytest.mark.parametrize("build", [network, lambda _, seed=0: with_dropout(seed)], ids=["batch-norm", "dropout"])
def test_a_training_is_a_function_of_its_seeds(build, digits, few, tmp_path):
    training = SHAKY.model_copy(update={"epochs": 1})
    trained = {}
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        trained[name] = build(digits)
        torch.rand(3)  # the global generator stands elsewhere each time
        loop.train(trained[name], few, training, RATE, context(tmp_path / name, seed))
    assert_same(trained["first"], trained["again"])
    with pytest.raises(AssertionError):
        assert_same(trained["first"], trained["other"])


def test_every_epoch_has_an_order_of_its_own(digits, few, tmp_path):
    model = network(digits)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training = Training(epochs=3, batch_size=200, augmentation=PLAIN)
    loop.train(model, few, training, RATE, context(tmp_path))
    assert len(seen) == 3
    assert not any(torch.equal(seen[a], seen[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_watching_is_at_the_epochs_asked_for_and_leaves_the_training_alone(digits, few, tmp_path):
    training = SHAKY.model_copy(update={"epochs": 3})
    watched, plain = network(digits), network(digits)
    history = loop.train(watched, few, training, RATE, context(tmp_path / "a"), watch=digits.test, watch_every=2)
    loop.train(plain, few, training, RATE, context(tmp_path / "b"))
    assert_same(watched, plain)
    assert history.watched_epochs == [2, 3]
    last = loop.predict(watched, digits.test, context(tmp_path / "c")).half()
    assert last.shape == (len(digits.test), 10) and torch.equal(history.watched_logits[-1], last)


def test_global_random_states_are_left_alone(few, tmp_path):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    loop.train(with_dropout(), few, SHAKY, RATE, context(tmp_path))
    assert torch.equal(torch.get_rng_state(), torch_state)
    for ours, theirs in zip(np.random.get_state(), numpy_state, strict=True):  # noqa: NPY002
        assert np.array_equal(ours, theirs)


def test_a_training_is_a_plain_loop_of_torchs_sgd(digits, few, tmp_path):
    training = Training(epochs=3, batch_size=256, schedule=Constant(), augmentation=PLAIN)
    start, ours, theirs = (small_network(digits) for _ in range(3))
    loop.train(ours, few, training, RATE, context(tmp_path))
    optimizer = torch.optim.SGD(theirs.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    inputs = torch.tensor(few.images).permute(0, 3, 1, 2) / 255
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(inputs), torch.tensor(few.labels)).backward()
        optimizer.step()
    for mine, plain, first in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)
        assert (mine - first).abs().max() > 1e-4


def test_bf16_trains_float32_weights(digits, few, tmp_path):
    model = network(digits)
    training = SHAKY.model_copy(update={"precision": "bf16"})
    history = loop.train(model, few, training, RATE, context(tmp_path / "a"))
    exact = loop.train(network(digits), few, SHAKY, RATE, context(tmp_path / "b"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert history.loss != exact.loss and history.loss == pytest.approx(exact.loss, rel=0.1)


def test_tf32_without_a_gpu_is_refused_before_anything_is_trained(digits, few, tmp_path):
    model = network(digits)
    with pytest.raises(InputError, match="tf32 needs a GPU"):
        loop.train(model, few, SHAKY.model_copy(update={"precision": "tf32"}), RATE, context(tmp_path))
    assert_same(model, network(digits))


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do(few, tmp_path):
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) after epoch \d; lower training.learning_rate"):
        loop.train(with_dropout(), few, SHAKY, 1e30, context(tmp_path))


def test_predictions_do_not_depend_on_the_micro_batch(digits, tmp_path):
    model = network(digits).train()
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    logits = [loop.predict(model, digits.test, context(tmp_path, micro_batch=size)) for size in (512, 64, 7)]
    assert logits[0].shape == (len(digits.test), 10) and logits[0].dtype == torch.float32
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-5, atol=1e-5)
    assert sizes[0] == len(digits.test) and max(sizes[1:8]) == 64 and max(sizes[-10:]) == 7
