"""Algorithm 1 of Poison Frogs: images that look like their bases and have the target's features.

Forward-backward splitting on each poison by itself: a gradient step on the distance of features, then the proximal step
that draws the image back to its base. A poison's step size falls when a step raises its objective, as in the authors'
code, so nothing needs tuning to a network. Nothing is drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stages.brew.frogs.config import PoisonFrogs
from stages.brew.task import Brew, Task
from stages.models.classifier import Classifier
from stages.stage import Context, Saved
from stages.training.batches import pixels, to_array, to_tensor
from stages.training.loop import to_device
from stages.training.precision import precision


def collide(
    task: Task,
    attack: PoisonFrogs,
    ctx: Context,
    evaluation_seed: int | None = None,
    start: Saved | None = None,
    until: int | None = None,
) -> Brew:
    """Brew poisons whose features are the targets' (see `Loop`); poison p is for target p modulo their number.

    B is the mean over poisons and surrogates of ‖f(x) - f(t)‖² / ‖f(t)‖², f the penultimate features. What is minimised
    is its numerator, averaged over the surrogates, and β/2 ‖x - b‖² (equation 1; Algorithm 1's backward step is the
    proximal step of half of equation 1's β).
    """
    device = ctx.device
    with precision("float32", device):
        targets = pixels(to_tensor(task.targets.array, device))
        clean = pixels(to_tensor(task.base.array, device))
        collision = Collision.of(task.surrogates, targets, len(clean), ctx.runtime.micro_batch, device)
        base = watermarked(clean, targets, attack.watermark)
        beta = 0.0 if attack.eps is not None else attack.beta0 * collision.mean_square_size / clean[0].numel() ** 2
        end = attack.steps if until is None else until
        saved = ctx.checkpoint.load() or start
        poisons, rate, losses = base, torch.full((len(base),), attack.learning_rate, device=device), list[float]()
        if saved is not None:
            poisons, rate = (saved[0][name].to(device) for name in ("poisons", "rate"))
            losses = list(saved[1]["losses"])
        distances, gradient = collision.measure(poisons)
        for step in range(len(losses), end):
            losses.append(collision.loss(distances))
            moved = backward(poisons - _along(rate) * gradient / 255**2, base, rate, beta, attack.eps)
            new_distances, new_gradient = collision.measure(moved)
            better = objective(new_distances, moved, base, beta) <= objective(distances, poisons, base, beta)
            poisons = torch.where(_along(better), moved, poisons)
            gradient = torch.where(_along(better), new_gradient, gradient)
            distances = torch.where(better, new_distances, distances)  # [K, P]: of each surrogate
            rate = torch.where(better, rate, rate * attack.decay)
            if ctx.save_due():
                ctx.save({"poisons": poisons, "rate": rate}, {"losses": losses})
            ctx.progress(step + 1, end, B=losses[-1])

        quantised = (poisons * 255).round().to(torch.uint8)
        return Brew(
            images=to_array(quantised),
            losses=losses,
            loss_before=collision.loss(distances) if end == attack.steps else None,
            loss=collision.loss(collision.measure(pixels(quantised))[0]),
            state={"poisons": poisons, "rate": rate},
        )


@dataclass
class Collision:
    """The distance of images' features to those of the targets they are for.

    wanted: per surrogate the target's features of each of the P poisons, [P, d].
    """

    surrogates: Sequence[Classifier]
    wanted: Sequence[torch.Tensor]
    micro_batch: int

    @classmethod
    @torch.no_grad()
    def of(
        cls, models: Sequence[torch.nn.Module], targets: torch.Tensor, poisons: int, size: int, device: torch.device
    ) -> "Collision":
        """The collision of so many poisons with targets [T, C, H, W], for networks that it moves to the device."""
        surrogates = [model for model in models if isinstance(model, Classifier)]
        assert len(surrogates) == len(models)
        turns = torch.arange(poisons, device=device) % len(targets)
        wanted = []
        for model in surrogates:
            to_device(model, device).eval().requires_grad_(False)
            wanted.append(model.features(targets)[turns])
        return cls(surrogates, wanted, size)

    @property
    def mean_square_size(self) -> float:
        """d_feature², averaged over the surrogates."""
        return sum(wanted.shape[1] ** 2 for wanted in self.wanted) / len(self.wanted)

    def measure(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """‖f(x) - f(t)‖² of images [P, C, H, W] in each surrogate, [K, P], and the gradient of its mean over these."""
        distances = images.new_zeros((len(self.surrogates), len(images)))
        gradient = torch.zeros_like(images)
        for first in range(0, len(images), self.micro_batch):
            part = slice(first, first + self.micro_batch)
            x = images[part].detach().requires_grad_()
            for k, (model, wanted) in enumerate(zip(self.surrogates, self.wanted, strict=True)):
                found = (model.features(x) - wanted[part]).square().sum(1)
                (own,) = torch.autograd.grad(found.sum(), x)
                distances[k, part] = found.detach()
                gradient[part] += own / len(self.surrogates)
        return distances, gradient

    def loss(self, distances: torch.Tensor) -> float:
        """B of distances [K, P]."""
        parts = [of / wanted.square().sum(1) for of, wanted in zip(distances, self.wanted, strict=True)]
        return float(torch.stack(parts).mean())


def objective(distances: torch.Tensor, images: torch.Tensor, base: torch.Tensor, beta: float) -> torch.Tensor:
    """What each poison minimises, [P]: its distance, averaged over the surrogates, and β/2 ‖x - b‖² in pixels of
    0..255."""
    return distances.mean(0) + beta / 2 * ((images - base) * 255).square().sum((1, 2, 3))


def backward(
    images: torch.Tensor, base: torch.Tensor, rate: torch.Tensor, beta: float, eps: int | None
) -> torch.Tensor:
    """The proximal step from images [P, C, H, W]: (x + λβb) / (1 + βλ), and into [0, 1] (Algorithm 1).

    With eps the projection onto |x - b| <= eps/255 (the l-infinity variant). Pixels do not depend on each other in
    either, so that clamping gives the proximal step under the bounds too.
    """
    if eps is not None:
        images = torch.maximum(torch.minimum(images, base + eps / 255), base - eps / 255)
    else:
        weight = _along(rate * beta)
        images = (images + weight * base) / (1 + weight)
    return images.clamp(0, 1)


def watermarked(base: torch.Tensor, targets: torch.Tensor, opacity: float) -> torch.Tensor:
    """opacity · t + (1 - opacity) · b, with target p modulo T for base p (section 4.2)."""
    turns = torch.arange(len(base), device=base.device) % len(targets)
    return opacity * targets[turns] + (1 - opacity) * base


def _along(values: torch.Tensor) -> torch.Tensor:
    """[P] as [P, 1, 1, 1], to go with images."""
    return values.view(-1, 1, 1, 1)
