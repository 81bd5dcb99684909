"""The rates against the paper, against torch's own scheduler, and against hand computations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.brew.config import GradientMatching
from stages.training.config import Constant, Cosine, MultiStep, Training
from stages.training.schedule import rate_factor


def test_forty_epochs_fall_after_14_24_and_35_as_in_the_paper():
    rates = [0.1 * rate_factor(MultiStep(), epoch, 40) for epoch in range(40)]
    assert rates == pytest.approx([0.1] * 14 + [0.01] * 10 + [0.001] * 11 + [0.0001] * 5)


def test_a_brew_of_250_steps_falls_after_93_156_and_218():
    assert MultiStep().milestones(250) == (93, 156, 218)


@settings(deadline=None)
@given(st.integers(3, 120), st.floats(0.05, 1))
def test_multistep_is_torchs_at_whole_epochs(epochs, factor):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    milestones = [int(epochs // part) for part in (2.667, 1.6, 1.142)]
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, factor)
    for epoch in range(epochs):
        for fraction in (0, 0.5, 0.999):
            ours = rate_factor(MultiStep(factor=factor), epoch + fraction, epochs)
            assert ours == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_training_of_an_epoch_or_two_starts_at_the_full_rate(epochs):
    assert rate_factor(MultiStep(), 0, epochs) == 1


def test_cosine_rises_and_falls():
    one_cycle = Cosine(warmup=0.25)
    points = {0: 0, 1: 0.1, 5: 0.5, 10: 1, 25: 0.5, 20: 0.75, 40: 0}
    for epoch, factor in points.items():
        assert rate_factor(one_cycle, epoch, 40) == pytest.approx(factor)
    assert rate_factor(Cosine(), 0, 40) == 1


@settings(deadline=None)
@given(st.floats(0, 0.95), st.integers(1, 100), st.floats(0, 1))
def test_every_schedule_stays_between_0_and_1(warmup, epochs, done):
    for schedule in (Cosine(warmup=warmup), MultiStep(), Constant()):
        assert 0 <= rate_factor(schedule, done * epochs, epochs) <= 1
    assert rate_factor(Constant(), done * epochs, epochs) == 1


@pytest.mark.parametrize("after", [(0,), (5, 10), (12,)])
def test_a_milestone_that_is_never_reached_is_refused(after):
    with pytest.raises(ValidationError, match=rf"schedule.after names epoch {after[-1]}, but there are 10 epochs"):
        Training(epochs=10, schedule=MultiStep(after=after))
    with pytest.raises(ValidationError, match=rf"schedule.after names step {after[-1]}, but there are 10 steps"):
        GradientMatching(steps=10, schedule=MultiStep(after=after))
    assert Training(epochs=10, schedule=MultiStep(after=(1, 9))).schedule.milestones(10) == (1, 9)


def test_groups_without_two_images_are_refused():
    with pytest.raises(ValidationError, match=r"batch_norm_groups is 5 and batch_size 8, .*set fewer groups or larger"):
        Training(batch_size=8, batch_norm_groups=5)
