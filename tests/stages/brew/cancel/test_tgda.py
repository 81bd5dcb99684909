"""The total gradient against what refitting says, and the leader and its follower on digits."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from small_brew import Interrupted, context
from stages import models
from stages.brew.cancel.config import TotalGradientAscent
from stages.brew.cancel.tgda import along, craft, solved
from stages.brew.config import DoubleBackward
from stages.brew.derivatives import mixed_derivative, poison_gradient
from stages.models import Network
from stages.shards import base_shards
from toy_sets import Logistic, fitted, gaussians


def test_the_total_gradient_is_how_the_clean_loss_of_the_refitted_follower_changes() -> None:
    """Lu et al. (2022), equation 5, for logistic regression that is trained to the end."""
    x, labels = gaussians()
    poisons, poison_labels = 2 * x[:3].clone(), 1 - labels[:3]
    both = torch.cat([labels, poison_labels])

    def loss(moved: torch.Tensor) -> float:
        return cross_entropy(Logistic(fitted(torch.cat([x, moved]), both))(x), labels).item()

    model = Logistic(fitted(torch.cat([x, poisons]), both))
    raised = poison_gradient(model, x, labels, 200)

    def trained_on() -> list[torch.Tensor]:
        return poison_gradient(model, torch.cat([x, poisons]), both, 200)

    before = model.w.detach().clone()
    v = solved(trained_on, [model.w], raised, 1e-9, 30)
    assert torch.equal(model.w, before)
    _, gradient = mixed_derivative(DoubleBackward(), model, poisons, poison_labels, along(v), 200)
    total = -gradient * len(poisons) / len(both)
    for row, column in ((0, 0), (1, 4), (2, 9)):
        step = torch.zeros_like(poisons)
        step[row, column] = 1e-4
        difference = (loss(poisons + step) - loss(poisons - step)) / 2e-4
        assert total[row, column].item() == pytest.approx(difference, abs=0.01 * total.abs().max().item())


def test_the_follower_comes_to_know_less_and_a_killed_game_goes_on(digits_folder: Path, tmp_path: Path) -> None:
    dataset = base_shards.load(digits_folder)
    base = dataset.train.of(range(0, 1300, 10))
    attack = TotalGradientAscent(
        eps_d=0.1, steps=6, learning_rate=30, follower_steps=5, follower_rate=0.02, iterations=4, damping=0.3
    )

    def made(name: str, stop_at: int | None = None) -> tuple[torch.nn.Module, bytes]:
        model = models.build(Network(name="linear"), dataset.info, 1)
        brew = craft(model, dataset.train, base, attack, context(tmp_path / name, stop_at=stop_at))
        assert (brew.images != base.array).any() and len(brew.losses) == 6
        return model, brew.images.tobytes()

    whole, images = made("whole")
    with pytest.raises(Interrupted):
        made("killed", stop_at=3)
    resumed, images_again = made("killed")
    assert images == images_again and torch.equal(whole.head.weight, resumed.head.weight)
