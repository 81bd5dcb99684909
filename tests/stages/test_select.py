"""The choice among restarts."""

import numpy as np
import pytest

from stages import select
from stages.shards import poisons
from stages.shards.poisons import PoisonSet
from stages.stage import Checkpoint, Context, Runtime


def choose(losses, folder, restarts=None):
    inputs = {}
    for number, loss in enumerate(losses):
        inputs[f"brew.{number}"] = folder / str(number)
        inputs[f"brew.{number}"].mkdir()
        images = np.full((2, 4, 4, 1), number, np.uint8)
        info = {"brew_loss": loss, "restart": restarts[number] if restarts else number}
        made = PoisonSet(np.array([5, 9]), images, np.array([1, 1]), info)
        poisons.save(made, inputs[f"brew.{number}"])
    out = folder / "out"
    out.mkdir()
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(folder))
    return select.run(select.Params(), inputs, out, ctx), out


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [([0.3, 0.1, 0.2], 1), ([0.2, 0.1, 0.1], 1), ([float("nan"), 0.9], 1), ([0.5, float("-inf")], 0), ([0.4], 0)],
)
def test_the_first_least_finite_loss_is_chosen_and_written_as_it_is(losses, chosen, tmp_path):
    metrics, out = choose(losses, tmp_path)
    assert metrics["chosen"] == chosen and metrics["brew_loss"] == losses[chosen]
    assert len(metrics["brew_losses"]) == len(losses)
    for name in ("poisons.arrow", "poisons.json"):
        assert (out / name).read_bytes() == (tmp_path / str(chosen) / name).read_bytes()


def test_no_finite_loss_is_an_error(tmp_path):
    with pytest.raises(ArithmeticError, match="none of the 2 restarts has a finite brew loss"):
        choose([float("nan"), float("inf")], tmp_path)


def test_where_restarts_were_raced_the_first_restart_and_not_the_first_place_counts(tmp_path):
    metrics, out = choose([0.3, 0.1, 0.1], tmp_path, restarts=[0, 7, 2])
    assert metrics["chosen"] == 2
    assert (out / "poisons.json").read_bytes() == (tmp_path / "2" / "poisons.json").read_bytes()


def test_more_than_ten_restarts_keep_their_order(tmp_path):
    metrics, _ = choose([1.0] * 11 + [0.5], tmp_path)
    assert metrics["chosen"] == 11
