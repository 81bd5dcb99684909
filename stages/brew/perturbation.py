"""The perturbation: its ball, its signed Adam, and the one quantisation at the end."""

import torch

from stages.brew.config import GradientMatching


class Perturbation:
    """delta for P images, kept in {|delta| <= eps, 0 <= base + delta <= 1} and moved by signed Adam.

    base: float [P, C, H, W] in [0, 1].  scale: [C], the dataset's standard deviation per channel, the unit of τ.
    Signed Adam is Adam on the sign of the gradient (Witches' Brew, Algorithm 1 and appendix A): β = (0.9, 0.999).
    """

    def __init__(
        self, base: torch.Tensor, scale: torch.Tensor, attack: GradientMatching, generator: torch.Generator | None
    ) -> None:
        self._base = base
        self._scale = scale.view(1, -1, 1, 1)
        self._attack = attack
        self._eps = attack.eps / 255
        self._milestones = attack.schedule.milestones(attack.steps)
        self.delta = torch.zeros_like(base)
        if generator is not None:
            uniform = torch.rand(base.shape, generator=generator, dtype=torch.float32) * 2 - 1
            self.delta = uniform.to(base) * self._eps
            self._project()
        self._first = torch.zeros_like(base)
        self._second = torch.zeros_like(base)
        self._steps = 0

    @property
    def poisons(self) -> torch.Tensor:
        """base + delta, float [P, C, H, W] in [0, 1]."""
        return self._base + self.delta

    def step(self, gradient: torch.Tensor) -> None:
        """One step against the gradient [P, C, H, W] of B, then the projection."""
        self._steps += 1
        sign = gradient.sign()
        self._first.lerp_(sign, 0.1)
        self._second.lerp_(sign.square(), 0.001)
        first = self._first / (1 - 0.9**self._steps)
        second = self._second / (1 - 0.999**self._steps)
        falls = sum(self._steps > milestone for milestone in self._milestones)
        tau = self._attack.step_size * self._attack.schedule.factor**falls
        self.delta.sub_(tau * self._scale * first / (second.sqrt() + 1e-8))
        self._project()

    def _project(self) -> None:
        self.delta.clamp_(-self._eps, self._eps)
        torch.maximum(torch.minimum(self.delta, 1 - self._base), -self._base, out=self.delta)

    def quantised(self) -> torch.Tensor:
        """The poisons as uint8 [P, C, H, W], at most eps from the base in every pixel."""
        base = (self._base * 255).round()
        change = (self.delta * 255).round().clamp(-self._attack.eps, self._attack.eps)
        return (base + change).clamp(0, 255).to(torch.uint8)

    def state(self) -> dict[str, torch.Tensor]:
        """What `restore` needs to go on from here."""
        return {"delta": self.delta, "first": self._first, "second": self._second, "steps": torch.tensor(self._steps)}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from a `state`."""
        self.delta, self._first, self._second = (state[name].to(self._base) for name in ("delta", "first", "second"))
        self._steps = int(state["steps"])
