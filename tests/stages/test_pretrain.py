"""The stage on prepared digits: the surrogate that the loop trains, as a folder that brewing can load."""

import json
from pathlib import Path

import pytest
import torch

from stages import models, pretrain
from stages.data.part import Part
from stages.models import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime, derive_seed
from stages.training import loop
from stages.training.config import Augmentation, Training

NETWORK = Network(name="convnet", width=8, depth=3)
TRAINING = Training(epochs=3, batch_size=32, learning_rate=0.05, augmentation=Augmentation(flip=False, pad=0))


def run(params, dataset, folder, stop_at=None):
    def report(done, total, figures):
        if done == stop_at:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    ctx = Context(params.seed, Runtime(device="cpu", checkpoint_seconds=0), Checkpoint(folder / "checkpoint"), report)
    return pretrain.run(params, {"dataset": dataset}, folder, ctx)


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_the_saved_network_is_the_trained_one_with_its_accuracy(digits_folder, tmp_path):
    params = pretrain.Params(network=NETWORK, training=TRAINING, seed=4)
    metrics = run(params, digits_folder, tmp_path / "out")
    dataset = base_shards.load(digits_folder)
    expected = models.build(NETWORK, dataset.info, derive_seed(4, "init"))
    ctx = Context(4, Runtime(device="cpu"), Checkpoint(tmp_path / "direct"))
    history = loop.train(expected, dataset.train, TRAINING, 0.05, ctx)
    saved = models.load(tmp_path / "out")
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in expected.state_dict().items())
    right = (loop.predict(saved, dataset.test, ctx).argmax(1).numpy() == dataset.test.labels).sum()
    assert metrics == {"validation_accuracy": right / len(dataset.test), "epochs": 3}
    assert metrics["validation_accuracy"] > 0.9
    assert json.loads((tmp_path / "out" / "curves.json").read_text()) == history.curves()


def test_running_it_again_or_resuming_gives_the_same_files(digits_folder, tmp_path):
    params = pretrain.Params(network=NETWORK, training=TRAINING, seed=4)
    metrics = run(params, digits_folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(params, digits_folder, tmp_path / "parts", stop_at=2)
    assert files(tmp_path / "parts") == {}
    assert run(params, digits_folder, tmp_path / "parts") == metrics
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    run(params.model_copy(update={"seed": 5}), digits_folder, tmp_path / "other")
    assert files(tmp_path / "other")["model.safetensors"] != files(tmp_path / "whole")["model.safetensors"]


def test_a_staggered_member_is_the_whole_one_at_an_earlier_epoch(digits_folder, tmp_path):
    params = pretrain.Params(network=NETWORK, training=TRAINING, seed=4)
    run(params, digits_folder, tmp_path / "whole")
    metrics = run(params.model_copy(update={"stop_after": 1}), digits_folder, tmp_path / "early")
    early, whole = (json.loads((tmp_path / name / "curves.json").read_text()) for name in ("early", "whole"))
    assert metrics["epochs"] == 1 and early["loss"] == whole["loss"][:1] and early["rate"] == whole["rate"][:1]


def test_a_surrogate_of_a_part_is_trained_on_it(digits_folder, tmp_path):
    params = pretrain.Params(network=NETWORK, training=TRAINING, seed=4, part=Part(fraction=0.3, seed=7))
    run(params, digits_folder, tmp_path / "out")
    dataset = base_shards.load(digits_folder)
    expected = models.build(NETWORK, dataset.info, derive_seed(4, "init"))
    part = dataset.train.of(params.part.of(dataset.train).ids)
    loop.train(expected, part, TRAINING, 0.05, Context(4, Runtime(device="cpu"), Checkpoint(tmp_path / "direct")))
    saved = models.load(tmp_path / "out").state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in expected.state_dict().items())


def test_without_a_rate_the_networks_own_is_taken(digits_folder, tmp_path):
    training = TRAINING.model_copy(update={"learning_rate": None})
    for name, rate in (("convnet", 0.01), ("resnet20", 0.1)):
        network = Network(name=name, width=2, depth=3) if name == "convnet" else Network(name=name, width=2)
        params = pretrain.Params(network=network, training=training, stop_after=1, seed=0)
        run(params, digits_folder, tmp_path / name)
        assert json.loads((tmp_path / name / "curves.json").read_text())["rate"] == [rate]


def test_pretrained_features_of_other_classes_get_a_last_layer_of_their_own(digits_folder, tmp_path, monkeypatch):
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch" / "hub" / "checkpoints" / Path(get_model_weights("mobilenet_v3_small").DEFAULT.url).name
    file.parent.mkdir(parents=True)
    published = get_model("mobilenet_v3_small").state_dict()
    torch.save(published, file)
    network = Network(name="torchvision/mobilenet_v3_small", weights="IMAGENET1K_V1")
    training = TRAINING.model_copy(update={"epochs": 1, "precision": "bf16"})
    metrics = run(pretrain.Params(network=network, training=training, seed=4), digits_folder, tmp_path / "out")
    saved = models.load(tmp_path / "out")
    assert metrics["epochs"] == 1 and saved.head.out_features == 10
    of_body = {name.removeprefix("body."): value for name, value in saved.state_dict().items() if "body." in name}
    assert all(torch.equal(value, published[name]) for name, value in of_body.items()) and len(of_body) > 200
    fresh = models.build(network, base_shards.load(digits_folder).info, derive_seed(4, "init"))
    assert not torch.equal(fresh.head.weight, saved.head.weight)
