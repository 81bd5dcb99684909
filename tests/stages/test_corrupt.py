"""Target parameters: within the ball, worse than the clean network, nearer to the origin where asked."""

import math
from pathlib import Path

import pytest
import torch

from small_brew import context
from stages import corrupt, models
from stages.brew.cancel.config import Corruption
from stages.models.config import Network
from stages.shards import base_shards
from stages.training import loop
from stages.training.config import Augmentation, Training

NETWORK = Network(name="mlp", width=32)


@pytest.fixture(scope="module")
def clean(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that knows digits."""
    folder, dataset = tmp_path_factory.mktemp("clean"), base_shards.load(digits_folder)
    model = models.build(NETWORK, dataset.info, 0)
    training = Training(epochs=4, batch_size=32, augmentation=Augmentation(flip=False, pad=0))
    loop.train(model, dataset.train, training, 0.05, context(folder / "checkpoint"))
    models.save(model, folder, NETWORK, dataset.info)
    return folder


def parameters(folder: Path) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(models.load(folder).parameters()).detach()


@pytest.mark.parametrize("kind", ["gradient", "random"])
def test_the_corrupted_network_is_in_the_ball_and_worse(
    kind: str, clean: Path, digits_folder: Path, tmp_path: Path
) -> None:
    inputs = {"dataset": digits_folder, "surrogate": clean}
    found = {}
    for eps_w, scale in ((0.03, 1.0), (0.6, 1.0), (0.6, 0.5)):
        out = tmp_path / f"{eps_w}-{scale}"
        params = corrupt.Params(corruption=Corruption(kind=kind, eps_w=eps_w, steps=5, scale=scale, seed=3))
        found[eps_w, scale] = metrics = corrupt.run(params, inputs, out, context(tmp_path / "checkpoint"))
        moved, length = (parameters(out) / scale - parameters(clean)).norm(), parameters(clean).norm()
        assert (moved / length).item() == pytest.approx(metrics["distance"], rel=1e-4)
        assert metrics["distance"] == pytest.approx(eps_w, rel=1e-3), "5 steps of 2/5 of the radius come to the border"
        again = corrupt.run(params, inputs, tmp_path / "again", context(tmp_path / "checkpoint", micro_batch=100))
        assert again == pytest.approx(metrics, rel=1e-3), "micro-batches bound the memory alone"
    if kind == "gradient":
        wide, narrow = found[0.6, 1.0], found[0.03, 1.0]
        assert wide["accuracy"] < narrow["accuracy"] < narrow["clean_accuracy"]
        assert 0 < found[0.6, 0.5]["tau"] < found[0.6, 1.0]["tau"], "nearer to the origin, easier to reach"
        assert math.isclose(found[0.6, 0.5]["distance"], found[0.6, 1.0]["distance"])
