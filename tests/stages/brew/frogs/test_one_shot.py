"""The one-shot kill on real digits: transfer learning, three classes, one poison, and the clean victim beside it.

The last layer has more weights a class than there are images, as in the paper: else it need not give way to one poison.
"""

import json

import numpy as np
import pytest

from stages import brew, case, evaluate, export, models, prepare, pretrain, retrain, select, summarize
from stages.brew.frogs.config import PoisonFrogs
from stages.data.cases import ExplicitCase, ExplicitCases
from stages.data.dataset_config import Digits
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training.config import Augmentation, Constant, Training
from stages.training.setting import Transfer

NETWORK = models.Network(name="convnet", width=4, depth=3)
STILL = Augmentation(flip=False, pad=0)
TARGETS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a stage as the pipeline does; gives the folder that it leaves."""

    def run_stage(stage, params, inputs):
        out = tmp_path_factory.mktemp("out")
        checkpoint = Checkpoint(tmp_path_factory.mktemp("checkpoint"))
        stage.run(params, inputs, out, Context(getattr(params, "seed", 0), Runtime(device="cpu"), checkpoint))
        return out

    return run_stage


@pytest.fixture
def killed(run):
    """Of each target its case, its brew, its overlay, and what the poisoned and the clean victim were found to do."""
    dataset = {
        "dataset": run(
            prepare, prepare.Params(dataset=Digits(classes=("3", "5", "8"), per_class=25, test_per_class=40)), {}
        )
    }
    training = Training(optimizer="adam", epochs=30, batch_size=25, learning_rate=2e-3, augmentation=STILL)
    surrogate = run(pretrain, pretrain.Params(network=NETWORK, training=training, seed=1), dataset)
    last = {"epochs": 300, "learning_rate": 0.03, "weight_decay": 0, "schedule": Constant()}
    victim = retrain.Params(
        network=NETWORK, training=training.model_copy(update=last), setting=Transfer(), record_every=150, seed=2
    )
    clean = run(retrain, victim, {**dataset, "surrogate": surrogate})
    labels = base_shards.load(dataset["dataset"]).test.labels
    found = []
    for number, target in enumerate(np.random.default_rng(0).choice(len(labels), TARGETS, replace=False).tolist()):
        true, intended = int(labels[target]), int(labels[target] + 1 + number % 2) % 3
        stated = ExplicitCase(target_class=true, intended_class=intended, target_ids=(target,), seed=number)
        drawn = {"case": run(case, case.Params(cases=ExplicitCases(cases=(stated,)), index=0, budget=1e-6), dataset)}
        attack = brew.Params(attack=PoisonFrogs(beta0=1e-7, steps=200), restart=0)
        brewed = run(brew, attack, {**dataset, **drawn, "surrogate.0": surrogate})
        chosen = run(select, select.Params(), {"brew.0": brewed})
        overlay = {"overlay": run(export, export.Params(eps=None), {**dataset, "poisons": chosen})}
        poisoned = run(retrain, victim, {**dataset, **overlay, "surrogate": surrogate})
        both = {"victim": poisoned, "clean": clean, **overlay}
        told = {
            "poisoned": run(evaluate, evaluate.Params(), {**dataset, **drawn, **both}),
            "clean": run(evaluate, evaluate.Params(), {**dataset, **drawn, "victim": clean}),
        }
        found.append({**dataset, **drawn, "brew": brewed, **overlay, **told})
    return found


def test_one_poison_kills_one_target_and_nothing_else(killed, run):
    poisoned, clean = (
        [json.loads((one[kind] / "evaluation.json").read_text()) for one in killed] for kind in ("poisoned", "clean")
    )
    assert sum(one["success"] for one in poisoned) >= 4
    assert sum(one["success"] for one in clean) <= 1
    accuracy, of_clean = (np.mean([one["accuracy"] for one in of]) for of in (poisoned, clean))
    assert of_clean > 0.8 and abs(accuracy - of_clean) < 0.05
    angles = [one["curves"]["angular_deviation"] for one in poisoned]
    assert all(len(of) == 2 and 1 < of[-1] < 90 for of in angles)
    for one in killed:
        points = json.loads((one["poisoned"] / "features.json").read_text())["clean"]["points"]
        base, poison, target = (np.array(points[name]) for name in ("base", "poison", "target"))
        assert np.linalg.norm(poison - target) < 0.3 * np.linalg.norm(base - target), "they collide"

    roles = {"dataset": killed[0]["dataset"]}
    for c, one in enumerate(killed[:2]):
        roles |= {f"{role}.{c}": one[role] for role in ("case", "overlay")} | {f"brew.{c}.0": one["brew"]}
        roles |= {f"{kind}.{c}.0": one[kind] for kind in ("poisoned", "clean")}
    out = run(summarize, summarize.Params(cases=2, victims=1, restarts=1), roles)
    assert {"features-00.png", "features-01.png", "angular-deviation.png"} <= {file.name for file in out.iterdir()}
