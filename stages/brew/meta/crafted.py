"""The poisons on their way: an additive change and a map of colours within their bounds, moved by Adam."""

from collections.abc import Mapping

import numpy as np
import torch

from stages.brew.meta.color import recolor, smoothness
from stages.brew.meta.config import MetaPoison
from stages.training.batches import to_array

Color = torch.Tensor | None


class Crafted:
    """P poisons x = recolored(base) + delta, with |delta| <= eps, colours moved by at most eps_c, and x in [0, 1].

    base: float [P, C, H, W] in [0, 1].  Both changes are variables of one Adam (MetaPoison, Algorithm 1, line 16).
    """

    def __init__(self, base: torch.Tensor, attack: MetaPoison, micro_batch: int) -> None:
        """micro_batch: images that are recoloured at once."""
        self._base, self._attack, self._eps = base, attack, attack.eps / 255
        self._parts = [slice(start, start + micro_batch) for start in range(0, len(base), micro_batch)]
        self.delta = torch.zeros_like(base)
        self.moves: Color = None
        if attack.color is not None:
            self.moves = base.new_zeros((len(base), 3, *[attack.color.grid] * 3))
        self._variables = [self.delta] if self.moves is None else [self.delta, self.moves]
        self._adam = torch.optim.Adam(self._variables)
        self.steps = 0

    def start(self, generator: torch.Generator) -> None:
        """Begin somewhere in the ball of delta, with the colours as they are (as the authors' code does)."""
        uniform = torch.rand(self._base.shape, generator=generator, dtype=torch.float32) * 2 - 1
        self.delta.copy_(uniform.to(self._base) * self._eps)
        self._project()

    @property
    def images(self) -> torch.Tensor:
        """The poisons, float [P, C, H, W] in [0, 1]."""
        return (self._recolored() + self.delta).clamp(0, 1)

    def step(self, gradient: torch.Tensor) -> None:
        """One step of Adam on the adversarial loss, whose gradient at the poisons is [P, C, H, W], and λ times the
        smoothness of the colours; then the projection."""
        attack = self._attack
        self.delta.grad = gradient
        if self.moves is not None and attack.color is not None:
            leaf = self.moves.clone().requires_grad_()
            (attack.color.smoothness * smoothness(leaf)).backward()
            for part in self._parts:
                recolor(self._base[part], leaf[part]).backward(gradient[part])
            self.moves.grad = leaf.grad
        self._adam.param_groups[0]["lr"] = attack.step_size / 255 / 10 ** (self.steps // attack.fall_every)
        self._adam.step()
        self._adam.zero_grad()
        self.steps += 1
        self._project()

    def quantised(self) -> np.ndarray:
        """The poisons as uint8 [P, H, W, C], each within eps of the recoloured image."""
        recolored = self._recolored().double() * 255
        eps = self._attack.eps + 1e-3  # a base in float32 is a little off its integer
        x = (recolored + self.delta.double() * 255).round()
        x = torch.maximum(torch.minimum(x, (recolored + eps).floor()), (recolored - eps).ceil()).clamp(0, 255)
        return to_array(x.to(torch.uint8))

    def state(self) -> dict[str, torch.Tensor]:
        """What `restore` needs to go on from here."""
        found = {"steps": torch.tensor(self.steps)}
        for name, variable in zip(("delta", "moves"), self._variables, strict=False):
            found[name] = variable
            found |= {f"{name}.{entry}": value for entry, value in self._adam.state[variable].items()}
        return found

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        self.steps = int(state["steps"])
        for name, variable in zip(("delta", "moves"), self._variables, strict=False):
            variable.copy_(state[name])
            for entry in ("step", "exp_avg", "exp_avg_sq"):
                if (saved := state.get(f"{name}.{entry}")) is not None:
                    self._adam.state[variable][entry] = saved.to("cpu" if entry == "step" else variable.device)

    def _recolored(self) -> torch.Tensor:
        if self.moves is None:
            return self._base
        return torch.cat([recolor(self._base[part], self.moves[part]) for part in self._parts])

    def _project(self) -> None:
        if self.moves is not None and self._attack.color is not None:
            self.moves.clamp_(-self._attack.color.eps, self._attack.color.eps)
        recolored = self._recolored()
        self.delta.clamp_(-self._eps, self._eps)
        torch.maximum(torch.minimum(self.delta, 1 - recolored), -recolored, out=self.delta)
