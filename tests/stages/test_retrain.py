"""The stage on prepared digits, clean and with an overlay of changed images."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import models, retrain
from stages.config import InputError
from stages.data.cases import Case, save_case
from stages.data.part import Part
from stages.models import Network
from stages.shards import base_shards, overlay
from stages.shards.poisons import PoisonSet
from stages.stage import Checkpoint, Context, Runtime, derive_seed
from stages.training import loop
from stages.training.config import Augmentation, Training
from stages.training.setting import FineTuning, Transfer

NETWORK = Network(name="convnet", width=8, depth=3, batch_norm=True)
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
    save_case(case.model_copy(update={"intended_class": None}), tmp_path / "case")
    with pytest.raises(InputError, match="no intended class, towards which the alignment"):
        run(inputs | {"case": tmp_path / "case"}, tmp_path / "refused")


def begun(setting, **changes):
    return PARAMS.model_copy(update={"setting": setting, "record_every": 1, **changes})


def state_of(folder):
    return models.load(folder).state_dict()


@pytest.fixture(scope="module")
def surrogate(digits_folder, tmp_path_factory):
    """A network that two epochs have taught digits."""
    folder = tmp_path_factory.mktemp("surrogate") / "out"
    run({"dataset": digits_folder}, folder, PARAMS.model_copy(update={"seed": 9}))
    return folder


def test_transfer_trains_a_new_last_layer_alone(surrogate, changed, digits_folder, tmp_path):
    inputs = {"dataset": digits_folder, "overlay": changed[0], "surrogate": surrogate}
    metrics = run(inputs, tmp_path / "out", begun(Transfer()))
    start, end = state_of(surrogate), state_of(tmp_path / "out")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"head.weight", "head.bias"}, "neither weights nor running statistics of the features"
    assert metrics["train_accuracy"] > 0.9
    heads = load_file(tmp_path / "out" / "watched.safetensors")["heads"]
    assert heads.shape == (3, *end["head.weight"].shape) and torch.equal(heads[-1], end["head.weight"])
    run(inputs, tmp_path / "still", begun(Transfer(), training=TRAINING.model_copy(update={"learning_rate": 1e-9})))
    fresh = models.build(NETWORK, base_shards.load(digits_folder).info, derive_seed(4, "init"))
    assert torch.allclose(state_of(tmp_path / "still")["head.weight"], fresh.head.weight, atol=1e-5)


def test_fine_tuning_starts_from_the_surrogate_and_trains_all_of_it(surrogate, digits_folder, tmp_path):
    inputs = {"dataset": digits_folder, "surrogate": surrogate}
    gentle = TRAINING.model_copy(update={"learning_rate": 1e-9})
    run(inputs, tmp_path / "still", begun(FineTuning(), training=gentle))
    run(inputs, tmp_path / "out", begun(FineTuning()))
    start, still, end = (state_of(folder) for folder in (surrogate, tmp_path / "still", tmp_path / "out"))
    weights = [name for name in start if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(start[name], still[name], atol=1e-5) for name in weights)
    assert not any(torch.equal(start[name], end[name]) for name in weights)
    losses = json.loads((tmp_path / "out" / "curves.json").read_text())["loss"]
    fresh = json.loads((surrogate / "curves.json").read_text())["loss"]
    assert losses[0] < 0.5 * fresh[0], "a warm start"


@pytest.mark.parametrize("setting", [Transfer(), FineTuning()])
def test_a_victim_that_was_interrupted_is_the_same(setting, surrogate, digits_folder, tmp_path):
    def part(folder, stop_at=None):
        def report(done, total, figures):
            if done == stop_at:
                raise KeyboardInterrupt

        folder.mkdir(exist_ok=True)
        ctx = Context(4, Runtime(device="cpu", checkpoint_seconds=0), Checkpoint(folder / "checkpoint"), report)
        return retrain.run(begun(setting), {"dataset": digits_folder, "surrogate": surrogate}, folder, ctx)

    with pytest.raises(KeyboardInterrupt):
        part(tmp_path / "parts", stop_at=2)
    part(tmp_path / "parts")
    part(tmp_path / "whole")
    for name in ("model.safetensors", "curves.json", "watched.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_a_victim_cannot_start_from_is_refused(surrogate, digits_folder, tmp_path):
    other = NETWORK.model_copy(update={"width": 4})
    with pytest.raises(InputError, match=r"is no convnet as the victim is to be.*give both one network"):
        inputs = {"dataset": digits_folder, "surrogate": surrogate}
        run(inputs, tmp_path / "other", begun(Transfer(), network=other))
    with pytest.raises(InputError, match="setting is fine-tuning, and there is no input surrogate"):
        run({"dataset": digits_folder}, tmp_path / "none", begun(FineTuning()))


def test_a_victim_of_a_part_is_trained_on_what_falls_into_it(changed, digits_folder, tmp_path):
    params = PARAMS.model_copy(update={"part": Part(fraction=0.5, seed=9), "record_every": 3})
    run({"dataset": digits_folder, "overlay": changed[0]}, tmp_path / "part", params)
    dataset = overlay.apply(base_shards.load(digits_folder), changed[0])
    train = dataset.train.of(params.part.of(dataset.train).ids)
    assert 0 < np.isin(train.ids, range(100, 130)).sum() < 30
    expected = models.build(NETWORK, dataset.info, derive_seed(4, "init"))
    loop.train(expected, train, TRAINING, 0.05, Context(4, Runtime(device="cpu"), Checkpoint(tmp_path / "direct")))
    victim = models.load(tmp_path / "part").state_dict()
    assert all(torch.equal(tensor, victim[name]) for name, tensor in expected.state_dict().items())


def test_features_that_are_known_train_the_head_that_the_images_do(surrogate, digits_folder, tmp_path, monkeypatch):
    inputs = {"dataset": digits_folder, "surrogate": surrogate}
    run(inputs, tmp_path / "known", begun(Transfer()))
    monkeypatch.setattr(loop, "MOST_KNOWN", 0)
    run(inputs, tmp_path / "images", begun(Transfer()))
    known, images = (load_file(tmp_path / of / "watched.safetensors")["heads"] for of in ("known", "images"))
    assert torch.allclose(known, images, atol=1e-4) and not torch.equal(known[0], known[-1])
