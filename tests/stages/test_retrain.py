"""The stage on prepared digits, clean and with an overlay of changed images."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import models, retrain
from stages.config import InputError
from stages.data.cases import Case, save_case
from stages.models import Network
from stages.shards import base_shards, overlay
from stages.shards.poisons import PoisonSet
from stages.stage import Checkpoint, Context, Runtime, derive_seed
from stages.training import loop
from stages.training.config import Augmentation, Training

NETWORK = Network(name="convnet", width=8, depth=3)
TRAINING = Training(epochs=3, batch_size=32, learning_rate=0.05, augmentation=Augmentation(flip=False, pad=0))
PARAMS = retrain.Params(network=NETWORK, training=TRAINING, record_every=2, seed=4)


def run(inputs, folder, params=PARAMS):
    folder.mkdir()
    ctx = Context(params.seed, Runtime(device="cpu"), Checkpoint(folder / "checkpoint"))
    return retrain.run(params, inputs, folder, ctx)


@pytest.fixture(scope="module")
def changed(digits_folder, tmp_path_factory):
    """An overlay of 30 images with random noise, and the noisy images."""
    folder = tmp_path_factory.mktemp("overlay")
    train = base_shards.load(digits_folder).train
    chosen = train.of(range(100, 130))
    noise = np.random.default_rng(0).integers(-32, 33, chosen.images.shape)
    images = np.clip(chosen.images.astype(int) + noise, 0, 255).astype(np.uint8)
    overlay.write(PoisonSet(chosen.ids, images, chosen.labels, {}), train, 32, folder)
    return folder, images


@pytest.fixture(scope="module")
def clean(digits_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("victims") / "clean"
    return run({"dataset": digits_folder}, folder), folder


def test_a_victim_is_trained_from_scratch_and_recorded(clean, digits_folder, tmp_path):
    metrics, folder = clean
    dataset = base_shards.load(digits_folder)
    curves = json.loads((folder / "curves.json").read_text())
    assert curves["watched_epochs"] == [2, 3] and len(curves["loss"]) == 3
    assert metrics == {"train_loss": curves["loss"][-1], "train_accuracy": curves["accuracy"][-1]}
    assert metrics["train_accuracy"] > 0.9
    logits = load_file(folder / "watched.safetensors")["logits"]
    assert logits.shape == (2, len(dataset.test), 10) and logits.dtype == torch.float16
    victim = models.load(folder)
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path))
    assert torch.equal(logits[-1], loop.predict(victim, dataset.test, ctx).half())
    assert not torch.equal(logits[0], logits[1])


def test_a_poisoned_victim_is_the_same_training_on_the_replaced_images(changed, clean, digits_folder, tmp_path):
    folder, images = changed
    run({"dataset": digits_folder, "overlay": folder}, tmp_path / "poisoned")
    dataset = base_shards.load(digits_folder)
    by_hand = np.array(dataset.train.images)
    by_hand[100:130] = images
    expected = models.build(NETWORK, dataset.info, derive_seed(4, "init"))
    train = type(dataset.train)(by_hand, dataset.train.labels, dataset.train.ids)
    loop.train(expected, train, TRAINING, 0.05, Context(4, Runtime(device="cpu"), Checkpoint(tmp_path / "direct")))
    victim = models.load(tmp_path / "poisoned").state_dict()
    assert all(torch.equal(tensor, victim[name]) for name, tensor in expected.state_dict().items())
    untouched = models.load(clean[1]).state_dict()
    assert not all(torch.equal(tensor, untouched[name]) for name, tensor in victim.items())


def test_the_same_seed_gives_the_same_victim(clean, digits_folder, tmp_path):
    run({"dataset": digits_folder}, tmp_path / "again")
    for name in ("model.safetensors", "curves.json", "watched.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (clean[1] / name).read_bytes()


def test_a_damaged_overlay_is_refused_before_training(changed, digits_folder, tmp_path):
    folder = tmp_path / "overlay"
    folder.mkdir()
    for file in changed[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    file = folder / "overlay.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"overlay\.arrow"):
        run({"dataset": digits_folder, "overlay": folder}, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_the_alignment_is_recorded_and_the_training_does_not_notice(changed, digits_folder, tmp_path):
    dataset = base_shards.load(digits_folder)
    case = Case(
        name="",
        target_class=int(dataset.test.labels[0]),
        intended_class=int(dataset.train.labels[100]),
        poison_class=int(dataset.train.labels[100]),
        target_ids=(0,),
        poison_ids=tuple(range(100, 130)),
        seed=0,
    )
    (tmp_path / "case").mkdir()
    save_case(case, tmp_path / "case")
    inputs = {"dataset": digits_folder, "overlay": changed[0]}
    run(inputs, tmp_path / "plain")
    run(inputs | {"case": tmp_path / "case"}, tmp_path / "watched")
    plain, watched = (json.loads((tmp_path / of / "curves.json").read_text()) for of in ("plain", "watched"))
    alignment = watched.pop("alignment")
    assert plain == watched and len(alignment) == len(plain["watched_epochs"])
    assert all(-1 <= value <= 1 for value in alignment) and len(set(alignment)) == 2
    one, other = (models.load(tmp_path / of).state_dict() for of in ("plain", "watched"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
