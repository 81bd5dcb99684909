"""The stage on prepared digits, with real surrogates for the outlier cases."""

import numpy as np
import pytest
from pydantic import ValidationError

from stages import case, models
from stages.config import InputError
from stages.data.cases import OutlierCases, RandomCases, load_case
from stages.data.images import Dataset
from stages.models import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training import loop
from stages.training.config import Augmentation, Training

PLAIN = Augmentation(flip=False, pad=0)


def run(params, inputs, folder, seed=0):
    folder.mkdir()
    ctx = Context(seed, Runtime(device="cpu"), Checkpoint(folder))
    return case.run(params, inputs, folder, ctx), load_case(folder)


def test_a_random_case_depends_on_its_params_alone(digits_folder, tmp_path):
    params = case.Params(cases=RandomCases(seed=3, targets=2), index=4, budget=0.01)
    metrics, first = run(params, {"dataset": digits_folder}, tmp_path / "a")
    _, again = run(params, {"dataset": digits_folder}, tmp_path / "b", seed=99)
    assert first == again
    train = base_shards.load(digits_folder).train
    count = -(-len(train) // 100)
    assert metrics["poisons"] == len(first.poison_ids) == count
    assert metrics["budget"] == count / len(train)
    assert metrics["target_class"] == str(first.target_class) and metrics["intended_class"] == str(first.poison_class)
    assert metrics["target_ids"] == list(first.target_ids) and len(first.target_ids) == 2


def test_a_budget_beyond_the_class_is_refused(digits_folder, tmp_path):
    with pytest.raises(InputError, match=r"budget 0.5 asks for .* poisons of class"):
        run(case.Params(cases=RandomCases(), index=0, budget=0.5), {"dataset": digits_folder}, tmp_path / "a")


@pytest.fixture(scope="module")
def surrogates(digits_folder, tmp_path_factory):
    dataset: Dataset = base_shards.load(digits_folder)
    network = Network(name="convnet-bn", width=8)
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"surrogate{seed}")
        model = models.build(network, dataset.info, seed)
        ctx = Context(seed, Runtime(device="cpu"), Checkpoint(folder / "checkpoint"))
        loop.train(model, dataset.train, Training(epochs=3, augmentation=PLAIN), 0.05, ctx)
        models.save(model, folder, network, dataset.info)
        folders.append(folder)
    return folders


def test_outliers_are_right_for_all_surrogates_and_surer_by_rank(digits_folder, surrogates, tmp_path):
    inputs = {"dataset": digits_folder, **{f"surrogate.{number}": folder for number, folder in enumerate(surrogates)}}
    dataset = base_shards.load(digits_folder)
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path))
    logits = np.stack([loop.predict(models.load(folder), dataset.test, ctx).numpy() for folder in surrogates])
    margins = []
    for index in range(4):
        params = case.Params(cases=OutlierCases(first=1, step=3), index=index, budget=0.01)
        _, drawn = run(params, inputs, tmp_path / str(index))
        (target,) = drawn.target_ids
        mine = logits[:, target]
        assert (mine.argmax(1) == drawn.target_class).all() and dataset.test.labels[target] == drawn.target_class
        others = np.delete(mine, drawn.target_class, axis=1)
        margins.append((mine[:, drawn.target_class] - others.max(1)).mean())
        assert mine.mean(0)[drawn.intended_class] == others.mean(0).max()
    assert margins == sorted(margins) and margins[0] > 0


def test_what_was_not_resolved_is_refused():
    with pytest.raises(ValidationError, match="benchmark"):
        case.Params.model_validate({"cases": {"kind": "benchmark"}, "index": 0, "budget": 0.01})
