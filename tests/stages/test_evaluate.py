"""Victims whose answers are known beforehand, on real digits: each number can be worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages import evaluate, models, retrain
from stages.data.cases import Case, load_case, save_case
from stages.models.config import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training.config import Augmentation, Training

NETWORK = Network(name="convnet", depth=3, width=8)
TRUE, INTENDED, OTHER = 4, 7, 2


@pytest.fixture
def targets(digits_folder):
    """The last three test images of the true class: ids that are no row numbers of a smaller array."""
    labels = base_shards.load(digits_folder).test.labels
    return tuple(int(row) for row in np.flatnonzero(labels == TRUE)[-3:])


@pytest.fixture
def judge(digits_folder, targets, tmp_path):
    """Evaluates a victim that answers every image with the same logits, on a case with three targets."""
    case = Case(
        name="by hand",
        target_class=TRUE,
        intended_class=INTENDED,
        poison_class=INTENDED,
        target_ids=targets,
        poison_ids=(0,),
        seed=None,
    )
    for name in ("case", "victim", "out"):
        (tmp_path / name).mkdir()
    save_case(case, tmp_path / "case")

    def evaluation(logits, watched):
        dataset = base_shards.load(digits_folder)
        model = models.build(NETWORK, dataset.info, 0)
        with torch.no_grad():
            model.head.weight.zero_()
            model.head.bias.copy_(torch.tensor(logits))
        models.save(model, tmp_path / "victim", NETWORK, dataset.info)
        save_file({"logits": watched}, tmp_path / "victim" / "watched.safetensors")
        epochs = {"watched_epochs": list(range(1, len(watched) + 1))}
        (tmp_path / "victim" / "curves.json").write_text(json.dumps(epochs))
        inputs = {"dataset": digits_folder, "case": tmp_path / "case", "victim": tmp_path / "victim"}
        ctx = Context(0, Runtime(device="cpu"), Checkpoint(tmp_path))
        metrics = evaluate.run(evaluate.Params(), inputs, tmp_path / "out", ctx)
        return metrics, json.loads((tmp_path / "out" / "evaluation.json").read_text())

    return evaluation


def leaning(label):
    """Logits by which p of the label is 9 / 18, and of each of the nine others 1 / 18."""
    return [math.log(9) if other == label else 0.0 for other in range(10)]


def flat(records=1):
    return torch.zeros(records, 450, 10, dtype=torch.float16)


def test_a_target_called_the_intended_class_is_a_success(judge, targets):
    _, found = judge(leaning(INTENDED), flat())
    assert found["success"] == 1
    assert [target["id"] for target in found["targets"]] == list(targets)
    target = found["targets"][0]
    assert (target["true_name"], target["intended_name"], target["prediction_name"]) == ("4", "7", "7")
    assert target["p_intended"] == target["p_prediction"] == pytest.approx(1 / 2)
    assert target["p_true"] == pytest.approx(1 / 18)
    assert target["loss_intended"] == pytest.approx(math.log(2))
    assert target["loss_true"] == pytest.approx(math.log(18))


@pytest.mark.parametrize(("answer", "success"), [(TRUE, 0), (OTHER, 1), (INTENDED, 1)])
def test_where_no_class_is_intended_all_but_the_target_s_own_are(judge, targets, tmp_path, answer, success):
    concealed = {"intended_class": None, "poison_class": TRUE}
    save_case(load_case(tmp_path / "case").model_copy(update=concealed), tmp_path / "case")
    watched = flat()
    watched[:, :, TRUE] = math.log(9)
    _, found = judge(leaning(answer), watched)
    assert found["success"] == success
    target = found["targets"][0]
    assert (target["intended_class"], target["intended_name"], target["success"]) == (None, None, bool(success))
    assert target["p_intended"] == pytest.approx(1 / 2 if answer == TRUE else 17 / 18)
    assert target["loss_intended"] == pytest.approx(-math.log(1 - target["p_true"]))
    assert found["curves"]["adversarial_loss"] == pytest.approx([math.log(2)], abs=1e-3)


@pytest.mark.parametrize("answer", [TRUE, OTHER])
def test_any_other_answer_is_none(judge, answer):
    metrics, found = judge(leaning(answer), flat())
    assert metrics["success"] == found["success"] == 0
    assert all(target["prediction"] == answer and target["success"] is False for target in found["targets"])
    assert found["targets"][0]["p_prediction"] == pytest.approx(1 / 2)


def test_the_accuracy_leaves_the_targets_out(judge, digits_folder):
    labels = base_shards.load(digits_folder).test.labels
    of_true, of_other = int((labels == TRUE).sum()), int((labels == OTHER).sum())
    assert judge(leaning(TRUE), flat())[1]["accuracy"] == pytest.approx((of_true - 3) / (450 - 3))
    assert judge(leaning(OTHER), flat())[1]["accuracy"] == pytest.approx(of_other / (450 - 3))


def test_the_curves_are_the_targets_alone(judge, targets):
    watched = flat(records=2)
    watched[:, :, INTENDED] = 8  # all other images, and none of the targets
    watched[:, list(targets), INTENDED] = 0
    watched[1, targets[0], INTENDED] = math.log(9)
    curves = judge(leaning(TRUE), watched)[1]["curves"]
    assert curves["epochs"] == [1, 2]
    after = (math.log(2) + 2 * math.log(10)) / 3
    assert curves["adversarial_loss"] == pytest.approx([math.log(10), after], abs=1e-3)
    assert curves["p_intended"] == pytest.approx([0.1, (0.5 + 0.2) / 3], abs=1e-3)


def test_what_retrain_leaves_can_be_evaluated(judge, digits_folder, tmp_path):
    judge(leaning(TRUE), flat())
    victim = tmp_path / "trained"
    victim.mkdir()
    params = retrain.Params(
        network=NETWORK,
        training=Training(epochs=3, batch_size=32, augmentation=Augmentation(flip=False, pad=0)),
        record_every=2,
        seed=1,
    )
    ctx = Context(1, Runtime(device="cpu"), Checkpoint(tmp_path / "checkpoint"))
    retrain.run(params, {"dataset": digits_folder}, victim, ctx)
    inputs = {"dataset": digits_folder, "case": tmp_path / "case", "victim": victim}
    metrics = evaluate.run(evaluate.Params(), inputs, tmp_path / "out", ctx)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert metrics["accuracy"] > 0.5
    assert found["curves"]["epochs"] == [2, 3]
    # The last record is of the finished network: the two agree but for the records' 16 bits.
    losses = [target["loss_intended"] for target in found["targets"]]
    assert found["curves"]["adversarial_loss"][-1] == pytest.approx(sum(losses) / 3, rel=1e-2)


def test_the_angle_between_the_boundaries_of_poisoned_and_clean_victim(tmp_path):
    """Normals that are known: at first the same, then turned by 60 degrees; other classes do not matter."""
    case = Case(
        name="",
        target_class=TRUE,
        intended_class=INTENDED,
        poison_class=INTENDED,
        target_ids=(0,),
        poison_ids=(0,),
        seed=0,
    )
    turned = math.cos(math.radians(60)), math.sin(math.radians(60))
    for folder, (x, y), length in (("victim", turned, 3.0), ("clean", (1.0, 0.0), 1.0)):
        heads = torch.zeros(2, 10, 2) if folder == "clean" else torch.rand(2, 10, 2)
        heads[:, TRUE] = torch.tensor([0.5, 0.5])
        heads[:, INTENDED] = torch.tensor([[1.0, 0.0], [x, y]]) * length + 0.5
        (tmp_path / folder).mkdir()
        save_file({"heads": heads}, tmp_path / folder / "watched.safetensors")
    found = evaluate.angular_deviation(tmp_path / "victim", tmp_path / "clean", case)
    assert found == pytest.approx([0, 60], abs=1e-3)
