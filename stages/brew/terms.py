"""One surrogate's term of the objective: B and its derivative, as functions of the augmented poisons alone.

The crafting loop augments, sums the terms and steps; what is compared, gradients or features, is a term's own affair.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from stages.brew.config import Derivative, GradientMatching, Private
from stages.brew.derivatives import Matching, matched, mixed_derivative, parts, poison_gradient
from stages.brew.features import feature_derivative, features_of
from stages.brew.layers import weights_of
from stages.brew.objectives import (
    ADVERSARIAL_LOSSES,
    FEATURE_OBJECTIVES,
    OBJECTIVES,
    FeatureObjective,
    Gradient,
    Objective,
)
from stages.brew.private import draw_noise, made_private
from stages.brew.task import Task
from stages.models.classifier import Classifier
from stages.stage import Context
from stages.training.batches import pixels, to_tensor


class Term(Protocol):
    """B of one surrogate. inputs: float [P, C, H, W], the augmented poisons.  noise: draws what is random in B, if
    anything is; a generator of the same seed gives the same B. The micro-batch changes no result."""

    not_finite: ClassVar[str]
    """Why B may be not finite, and what to do."""

    def value(self, inputs: torch.Tensor, noise: torch.Generator) -> float:
        """B."""

    def derivative(self, inputs: torch.Tensor, noise: torch.Generator) -> tuple[float, torch.Tensor]:
        """B and dB/dx, [P, C, H, W]."""


def term_of(model: torch.nn.Module, task: Task, attack: GradientMatching, ctx: Context) -> Term:
    """The term of a surrogate, which is in evaluation mode on the device; what is of the targets is worked out here.

    Raises ArithmeticError where the targets give nothing to match, InputError where `attack.layers` does not fit.
    """
    targets = pixels(to_tensor(task.targets.array, ctx.device))
    micro_batch = ctx.runtime.micro_batch
    if attack.on_features:
        assert isinstance(model, Classifier)
        return FeatureTerm(
            model, FEATURE_OBJECTIVES[attack.objective], _target_features(model, targets, micro_batch), micro_batch
        )
    assert attack.derivative is not None and attack.adversarial_loss is not None
    scales = None if attack.layers is None else _choose(model, attack.layers)
    target = _adversarial_gradient(model, targets, task.intended, attack.adversarial_loss, micro_batch)
    return GradientTerm(
        model,
        torch.from_numpy(task.base.labels.copy()).to(ctx.device),
        OBJECTIVES[attack.objective],
        _scaled(target, scales),
        scales,
        attack.private,
        attack.derivative,
        micro_batch,
    )


@dataclass(frozen=True)
class GradientTerm:
    """B(g, t) of the poison gradient g. target: t, scaled.  scales: √w a parameter, so that inner products weigh by w;
    None where all weigh alike."""

    model: torch.nn.Module
    labels: torch.Tensor
    objective: Objective
    target: Gradient
    scales: list[float] | None
    private: Private | None
    how: Derivative
    micro_batch: int
    not_finite: ClassVar[str] = (
        "the poison gradient of a surrogate is 0 or not finite. One that is certain of every poison has nothing to "
        "match with; train it for fewer epochs"
    )

    def value(self, inputs: torch.Tensor, noise: torch.Generator) -> float:
        """B."""
        gradient = poison_gradient(self.model, inputs, self.labels, self.micro_batch)
        return self._matching(noise)(gradient).item()

    def derivative(self, inputs: torch.Tensor, noise: torch.Generator) -> tuple[float, torch.Tensor]:
        """B and dB/dx."""
        return mixed_derivative(self.how, self.model, inputs, self.labels, self._matching(noise), self.micro_batch)

    def _matching(self, noise: torch.Generator) -> Matching:
        """B of the gradient alone, with the noise drawn: a constant, to all derivatives."""
        private = self.private
        drawn = None if private is None else draw_noise(private, self.target, noise)

        def matching(gradient: Gradient) -> torch.Tensor:
            if private is not None and drawn is not None:
                gradient = made_private(gradient, private, drawn)
            return self.objective(_scaled(gradient, self.scales), self.target)

        return matching


@dataclass(frozen=True)
class FeatureTerm:
    """B(f, t) of the poisons' penultimate features f. target: t, [d], the mean over the targets."""

    model: Classifier
    objective: FeatureObjective
    target: torch.Tensor
    micro_batch: int
    not_finite: ClassVar[str] = "the features of a surrogate are not finite. Train it again, with a lower learning rate"

    def value(self, inputs: torch.Tensor, noise: torch.Generator) -> float:
        """B."""
        return self._of_features(features_of(self.model, inputs, self.micro_batch)).item()

    def derivative(self, inputs: torch.Tensor, noise: torch.Generator) -> tuple[float, torch.Tensor]:
        """B and dB/dx."""
        return feature_derivative(self.model, inputs, self._of_features, self.micro_batch)

    def _of_features(self, features: torch.Tensor) -> torch.Tensor:
        return self.objective(features, self.target)


def _target_features(model: Classifier, targets: torch.Tensor, micro_batch: int) -> torch.Tensor:
    mean = features_of(model, targets, micro_batch).mean(0)
    if not mean.any():
        raise ArithmeticError(
            "the surrogate's features of the target are all 0, so there is no direction to move to; train it for fewer "
            "epochs or choose another case"
        )
    return mean


def _adversarial_gradient(
    model: torch.nn.Module, targets: torch.Tensor, intended: int, loss_name: str, micro_batch: int
) -> list[torch.Tensor]:
    """t = ∇θ of the mean adversarial loss over the targets."""
    adversarial = ADVERSARIAL_LOSSES[loss_name]
    total: list[torch.Tensor] = []
    for part in parts(len(targets), micro_batch):
        inputs = targets[part]
        wanted = torch.full((len(inputs),), intended, device=inputs.device)
        loss = adversarial(model(inputs), wanted) * (len(inputs) / len(targets))
        found = torch.autograd.grad(loss, matched(model))
        total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
    if not any(tensor.any() for tensor in total):
        raise ArithmeticError(
            f"the gradient of the {loss_name} loss on the target is 0, so there is nothing to match: "
            "the surrogate already calls the target by its intended class; choose another case"
        )
    return total


def _choose(model: torch.nn.Module, layers: dict[str, float]) -> list[float]:
    """√w of each parameter that takes part; those of weight 0 need no gradient any more."""
    weights = weights_of(layers, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(weights[name] > 0)
    return [weight**0.5 for weight in weights.values() if weight > 0]


def _scaled(gradient: Gradient, scales: list[float] | None) -> Gradient:
    return gradient if scales is None else [a * scale for a, scale in zip(gradient, scales, strict=True)]
