"""Crafting steps by the stages `adapt` and `unroll` alone, on images with colours."""

import json

import numpy as np
import pytest

from small_brew import context
from stages import adapt, unroll
from stages.brew.meta.config import MetaPoison, ReColor
from stages.data.cases import Case, save_case
from stages.data.images import DatasetInfo, ImageSet
from stages.models.config import Network
from stages.shards import base_shards, poisons
from stages.shards.config import SPLITS, Shards
from stages.training.config import Augmentation, Training

NETWORK = Network(name="convnet", width=4, depth=3)
TRAINING = Training(epochs=4, batch_size=16, augmentation=Augmentation(flip=True, pad=1))
ATTACK = MetaPoison(steps=2, budget=0.25, adversarial_loss="cross-entropy", color=ReColor(grid=4))
INFO = DatasetInfo("random", tuple("abc"), (8, 8, 3), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """40 images of random colours, and a case with the ten of class 1 as poisons."""
    folder = tmp_path_factory.mktemp("adapt")
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [15, 10, 15])
    parts = {}
    (folder / "base").mkdir()
    for split in SPLITS:
        images = ImageSet(rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), labels, np.arange(40))
        parts[split] = [base_shards.write_part(folder / "base", split, 0, 1, images, Shards(), 3)]
    base_shards.describe(folder / "base", INFO, parts)
    (folder / "case").mkdir()
    case = Case(
        name="0 → 1",
        target_class=0,
        intended_class=1,
        poison_class=1,
        target_ids=(3,),
        poison_ids=tuple(range(15, 25)),
        seed=None,
    )
    save_case(case, folder / "case")
    return {"dataset": folder / "base", "case": folder / "case"}


@pytest.fixture(scope="module")
def crafted(inputs, tmp_path_factory):
    """Runs all steps with two networks that begin at random weights; gives each step's folder by name."""

    def run(attack=ATTACK, restart=0, steps=ATTACK.steps):
        top, folders = tmp_path_factory.mktemp("crafted"), {}

        def made(name, params, **more):
            out = folders[name] = top / name
            out.mkdir()
            module = adapt if isinstance(params, adapt.Params) else unroll
            module.run(params, inputs | more, out, context(out / "checkpoint", params.seed))

        made("adapt-0", adapt.Params(attack=attack, restart=restart, step=0))
        for step in range(steps):
            at = folders[f"adapt-{step}"]
            for m in range(2):
                params = unroll.Params(how=attack.lookahead, network=NETWORK, training=TRAINING, epoch=step, seed=m)
                before = {"network": folders[f"unroll-{step - 1}-{m}"]} if step else {}
                made(f"unroll-{step}-{m}", params, poisons=at, **before)
            told = {f"unroll.{m}": folders[f"unroll-{step}-{m}"] for m in range(2)}
            made(f"adapt-{step + 1}", adapt.Params(attack=attack, restart=restart, step=step + 1), before=at, **told)
        return folders

    return run


@pytest.fixture(scope="module")
def usual(crafted):
    return crafted()


def said(folders, step, m):
    return json.loads((folders[f"unroll-{step}-{m}"] / "unroll.json").read_text())


def test_poisons_with_colours_are_whole_and_bounded_by_what_they_say(crafted, usual, inputs):
    made, base = poisons.load(usual["adapt-2"]), base_shards.load(inputs["dataset"]).train
    assert made.ids.tolist() == list(range(15, 25)) and set(made.labels.tolist()) == {1}
    assert made.info["eps"] is None, "colours have no bound in pixel values"
    assert poisons.check(made, base, None) > 8
    plain = poisons.load(crafted(ATTACK.model_copy(update={"color": None}))["adapt-2"])
    assert plain.info["eps"] == 8 and poisons.check(plain, base, 8) == 8


def test_the_ensembles_losses_are_averaged(usual):
    """B at each step is the mean of what its networks said, which begin differently and see different orders."""
    found = json.loads((usual["adapt-2"] / "brew.json").read_text())
    assert poisons.load(usual["adapt-2"]).info["brew_loss"] == found["losses"][-1] == found["brew_loss"] > 0
    for step, loss in enumerate(found["losses"]):
        of_networks = [said(usual, step, m) for m in range(2)]
        assert loss == pytest.approx(np.mean([one["adversarial_loss"] for one in of_networks]))
        assert of_networks[0]["adversarial_loss"] != of_networks[1]["adversarial_loss"]
        assert of_networks[0]["adversarial_loss"] == pytest.approx(np.mean(of_networks[0]["adversarial_losses"]))


def test_the_same_seed_gives_the_same_poisons_and_a_restart_others(crafted, usual):
    first, again, other = (poisons.load(folders["adapt-2"]) for folders in (usual, crafted(), crafted(restart=1)))
    assert first.sha256() == again.sha256() != other.sha256()


def test_a_part_of_a_large_set_can_be_used(usual, inputs, tmp_path):
    params = adapt.Params(attack=ATTACK, restart=0, step=2, used_budget=0.1)
    told = {f"unroll.{m}": usual[f"unroll-1-{m}"] for m in range(2)}
    adapt.run(params, inputs | told | {"before": usual["adapt-1"]}, tmp_path, context(tmp_path / "c", params.seed))
    whole, part = poisons.load(usual["adapt-2"]), poisons.load(tmp_path)
    assert len(whole) == 10 and len(part) == 4
    rows = np.searchsorted(whole.ids, part.ids)
    assert np.array_equal(whole.ids[rows], part.ids) and np.array_equal(whole.images[rows], part.images)


def test_self_concealment_pulls_away_from_the_true_class(crafted):
    """-log(1 - p) with p of the true class after the look-ahead: about log 3/2 for three classes at random weights."""
    folders = crafted(ATTACK.model_copy(update={"adversarial_loss": "self-concealment"}), steps=1)
    assert said(folders, 0, 0)["adversarial_loss"] == pytest.approx(np.log(3 / 2), abs=0.2)


def test_a_watermark_lies_under_the_change(crafted, inputs):
    folders = crafted(ATTACK.model_copy(update={"color": None, "watermark": 0.25}), steps=2)
    made, dataset = poisons.load(folders["adapt-2"]), base_shards.load(inputs["dataset"])
    marked = 0.75 * dataset.train.of(made.ids).array + 0.25 * dataset.test.of([3]).array.astype(float)
    assert made.info["eps"] is None
    assert 7 < np.abs(made.images - marked).max() <= 8.01
