"""Stage `evaluate`: what one victim does with one case: is the target called what the attacker intends, and at what
cost to everything else. A clean victim is evaluated on the same case in the same way: it is what poison success is held
against."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.config import Config
from stages.stage import Context, Metrics

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.data.cases import Case

VERSION = 1


class Params(Config):
    """Nothing to choose. Inputs: `dataset`, `case`, and `victim` (what `retrain` left); for a poisoned one that began
    with a surrogate also `clean`, the clean victim of the same seed, and `overlay`, the poisons."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `evaluation.json`: a list `targets`, and `success`, `accuracy` (both in [0, 1]) and `curves`.

    A target is a success where it is predicted as the intended class; other misclassification does not count (Witches'
    Brew, section 4), unless no class is intended: then all of it does, and `p_intended` is 1 - p_true, `loss_intended`
    -log(1 - p_true) (MetaPoison, self-concealment). `accuracy` is over the test images that are no targets. Losses are
    cross-entropies in nats; `curves` has the adversarial loss at each recorded epoch, averaged over the targets
    (Witches' Brew, figure 9), and where the clean victim is given and a class intended `angular_deviation`, in degrees
    (see `angular_deviation`); then there is also `features.json` (see `stages.features.view`).
    """
    from stages import features, models
    from stages.data.cases import load_case
    from stages.shards import base_shards, overlay, poisons
    from stages.training import loop

    dataset = base_shards.load(inputs["dataset"])
    case = load_case(inputs["case"])
    victim = models.load(inputs["victim"]).to(ctx.device)
    logits = loop.predict(victim, dataset.test, ctx)
    targets = _targets(logits, case, dataset.info.classes)
    figures = {
        "targets": targets,
        "success": sum(target["success"] for target in targets) / len(targets),
        "accuracy": _accuracy(logits, dataset.test.labels, case),
    }
    curves = _curves(inputs["victim"], case)
    if "clean" in inputs and case.intended_class is not None:
        curves["angular_deviation"] = angular_deviation(inputs["victim"], inputs["clean"], case)
        changed = poisons.load(inputs["overlay"], overlay.STEM)
        both = {"clean": models.load(inputs["clean"]), "poisoned": victim}
        views = {kind: features.view(model, dataset, changed, case, ctx) for kind, model in both.items()}
        (out / features.VIEW).write_text(json.dumps(views))
    evaluation = {**figures, "curves": curves}
    (out / "evaluation.json").write_text(json.dumps(evaluation, indent=1, allow_nan=False))
    ctx.progress(1, 1, success=figures["success"], accuracy=figures["accuracy"])
    return figures


def angular_deviation(victim: Path, clean: Path, case: "Case") -> list[float]:
    """How far poisons turn the decision boundary, at each recorded epoch: the angle in degrees between its normals in
    the poisoned and in the clean victim, of one seed (Poison Frogs, sections 3.2 and 4.1, figures 3 and 4).

    The boundary is that between the target's class and the intended one in the space of features: the normal is the
    difference of the two classes' weights in the last layer.
    """
    import torch
    from safetensors import safe_open

    def normals(folder: Path) -> torch.Tensor:
        with safe_open(folder / "watched.safetensors", framework="pt") as file:
            heads = file.get_tensor("heads").double()
        return heads[:, case.intended_class] - heads[:, case.target_class]

    cosines = torch.cosine_similarity(normals(victim), normals(clean), dim=1).clamp(-1, 1)
    found: list[float] = cosines.arccos().rad2deg().tolist()
    return found


def _targets(logits: "torch.Tensor", case: "Case", classes: tuple[str, ...]) -> list[dict[str, Any]]:
    targets = []
    for identifier in case.target_ids:
        log_p = logits[identifier].double().log_softmax(0)
        p, intended = log_p.exp(), _intended(log_p, case)
        prediction = int(log_p.argmax())
        targets.append(
            {
                "id": identifier,
                "true_class": case.target_class,
                "true_name": classes[case.target_class],
                "intended_class": case.intended_class,
                "intended_name": None if case.intended_class is None else classes[case.intended_class],
                "prediction": prediction,
                "prediction_name": classes[prediction],
                "success": case.success(prediction),
                "p_prediction": p[prediction].item(),
                "p_intended": intended.exp().item(),
                "p_true": p[case.target_class].item(),
                "loss_intended": -intended.item(),
                "loss_true": -log_p[case.target_class].item(),
            }
        )
    return targets


def _intended(log_p: "torch.Tensor", case: "Case") -> "torch.Tensor":
    """The log-probability of what the attacker intends [...], of those of all classes [..., classes]."""
    import torch

    if case.intended_class is not None:
        return log_p[..., case.intended_class]
    others = torch.cat((log_p[..., : case.target_class], log_p[..., case.target_class + 1 :]), -1)
    return others.logsumexp(-1).clamp(max=0)  # rounding may make the sum of all others a little more than 1


def _accuracy(logits: "torch.Tensor", labels: "np.ndarray", case: "Case") -> float:
    import numpy as np

    correct = logits.argmax(1).numpy() == labels
    return float(np.delete(correct, case.target_ids).mean())


def _curves(victim: Path, case: "Case") -> dict[str, list[Any]]:
    """The targets' rows alone are read: the records of all test images of ImageNet are gigabytes."""
    import torch
    from safetensors import safe_open

    with safe_open(victim / "watched.safetensors", framework="pt") as file:
        watched = file.get_slice("logits")
        rows = [watched[:, identifier : identifier + 1] for identifier in case.target_ids]
    log_p = _intended(torch.cat(rows, dim=1).double().log_softmax(2), case)
    return {
        "epochs": json.loads((victim / "curves.json").read_text())["watched_epochs"],
        "adversarial_loss": (-log_p).mean(1).tolist(),
        "p_intended": log_p.exp().mean(1).tolist(),
    }
