"""An epoch on real digits: what it does to the network and says of each poison, and what an interruption does not."""

import numpy as np
import pytest
import torch

from small_brew import INTENDED, NETWORK, Interrupted, context
from stages import models
from stages.brew.meta.config import Lookahead, MetaPoison
from stages.brew.meta.crafted import Crafted
from stages.brew.meta.epoch import Poisons, run_epoch
from stages.brew.meta.lookahead import Labelled
from stages.training import loop
from stages.training.batches import pixels, to_tensor
from stages.training.config import Augmentation, Constant, Training

TRAINING = Training(
    epochs=3, batch_size=32, learning_rate=0.05, schedule=Constant(), augmentation=Augmentation(flip=True, pad=1)
)
RATE, SEED = 0.05, 5
HOW = Lookahead(adversarial_loss="cross-entropy")


@pytest.fixture
def images(dataset):
    """130 images, of which the last batch has 2; ids need not begin at 0."""
    return dataset.train.of(range(20, 150))


@pytest.fixture
def poisons(images):
    ids = images.ids[images.labels == INTENDED]
    return Poisons(ids, pixels(to_tensor(images.of(ids).array)) * 0.9 + 0.05)


@pytest.fixture
def targets(dataset):
    rows = np.flatnonzero(dataset.test.labels == 4)[:2]
    return Labelled(pixels(to_tensor(dataset.test.images[rows])), torch.full((2,), INTENDED))


@pytest.fixture
def epoch(images, poisons, targets, dataset, tmp_path):
    """One epoch of a fresh network."""

    def run(ctx=None, folder="epoch", how=HOW, training=TRAINING, network=NETWORK, poisons=poisons, number=0):
        model = loop.to_device(models.build(network, dataset.info, 1), torch.device("cpu"))
        optimizer = loop.optimizer_of(model, training, RATE)
        ctx = ctx or context(tmp_path / folder, SEED)
        seen = run_epoch(model, optimizer, images, poisons, targets, how, training, RATE, number, ctx)
        return seen, model

    return run


def assert_same(first, second):
    (seen, model), (again, other) = first, second
    assert torch.equal(seen.gradient, again.gradient) and seen[1:] == again[1:]
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_on_the_clean_trajectory_the_network_trains_as_any_does(epoch, images, dataset, tmp_path):
    """The same as the training loop, whatever the poisons are."""
    seen, model = epoch()
    plain = models.build(NETWORK, dataset.info, 1)
    history = loop.train(plain, images, TRAINING, RATE, context(tmp_path / "plain", SEED), stop_after=1)
    for (name, ours), theirs in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6), name
    assert seen.train_loss == pytest.approx(history.loss[0], rel=1e-5)
    poisoned, other = epoch(how=HOW.model_copy(update={"trajectory": "poisoned"}), folder="poisoned")
    assert not torch.allclose(other.head.weight, model.head.weight, atol=1e-6)
    assert poisoned.train_loss != seen.train_loss


def test_every_poison_has_exactly_one_gradient(epoch, poisons):
    """Each look-ahead is from the batch that holds it: the sum of all losses has that very slope at each poison."""
    plain = TRAINING.model_copy(update={"augmentation": Augmentation(flip=False, pad=0)})
    seen, _ = epoch(training=plain)
    assert (seen.gradient.flatten(1).abs().amax(1) > 0).all()
    assert len(seen.losses) == 4, "the last batch, of 2 images, has none"
    # Of one step alone, no other batch's poisons matter to a loss.
    how = HOW.model_copy(update={"unroll": 1})
    smooth = NETWORK.model_copy(update={"activation": "softplus"})
    seen, _ = epoch(how=how, training=plain, network=smooth, folder="one")
    for row in (0, 5):
        way = torch.zeros_like(seen.gradient)
        way[row] = seen.gradient[row] / seen.gradient[row].norm()
        moved = [
            sum(
                epoch(
                    how=how,
                    training=plain,
                    network=smooth,
                    folder=f"{row}{h}",
                    poisons=poisons._replace(images=poisons.images + h * way),
                )[0].losses
            )
            for h in (0.05, -0.05)
        ]
        assert (moved[0] - moved[1]) / 0.1 == pytest.approx((seen.gradient * way).sum().item(), rel=0.05)


def test_a_batch_without_poisons_is_not_looked_ahead_from(epoch, poisons):
    few = Poisons(poisons.ids[:1], poisons.images[:1])
    seen, _ = epoch(poisons=few)
    assert len(seen.losses) == 1 and seen.gradient.any()


@pytest.mark.parametrize("trajectory", ["clean", "poisoned"])
@pytest.mark.parametrize("unroll", [2, 7])
def test_resuming_in_mid_epoch_equals_not_having_stopped(trajectory, unroll, epoch, tmp_path):
    """Also where more steps are unrolled than the epoch has batches."""
    how = HOW.model_copy(update={"trajectory": trajectory, "unroll": unroll})
    whole = epoch(how=how, folder="whole")
    for stop_at in (1, 4):
        with pytest.raises(Interrupted):
            epoch(context(tmp_path / "parts", SEED, stop_at=stop_at), how=how)
    resumed = epoch(context(tmp_path / "parts", SEED), how=how)
    assert_same(resumed, whole)


def test_it_is_a_function_of_seed_and_epoch(epoch, tmp_path):
    first = epoch(folder="a")
    assert_same(first, epoch(folder="b"))
    for other in (epoch(context(tmp_path / "c", SEED + 1)), epoch(folder="d", number=1)):
        assert not torch.equal(other[0].gradient, first[0].gradient)


def test_networks_that_look_at_a_whole_batch_and_groups_do_too(epoch):
    bn = NETWORK.model_copy(update={"batch_norm": True})
    seen, model = epoch(network=bn, training=TRAINING.model_copy(update={"batch_norm_groups": 2}))
    assert (seen.gradient.flatten(1).abs().amax(1) > 0).all()
    tracked = [value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert tracked and {int(value) for value in tracked} == {4}, "looking ahead leaves the running statistics"


def test_the_adversarial_loss_falls(epoch, poisons):
    """The same epoch of the same network again and again, with poisons that step by what it says."""
    how = HOW.model_copy(update={"learning_rate": 0.5})
    attack = MetaPoison(color=None, eps=48, step_size=8, fall_every=6)
    crafted = Crafted(poisons.images, attack, 512)
    losses = []
    for number in range(8):
        seen, _ = epoch(folder=str(number), how=how, poisons=poisons._replace(images=crafted.images))
        losses.append(np.mean(seen.losses))
        crafted.step(seen.gradient)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.08
