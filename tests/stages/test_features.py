"""The view of features in two dimensions, and its pictures, on real digits and an untrained network."""

import numpy as np
import pytest

from small_brew import context
from stages import feature_figure, features, models
from stages.data.cases import Case
from stages.models import Network
from stages.shards import base_shards
from stages.shards.poisons import PoisonSet
from stages.training.loop import predict

CASE = Case(name="", target_class=4, intended_class=7, poison_class=7, target_ids=(1, 2), poison_ids=(0, 1), seed=None)
"""The view looks at no label of the targets, nor of the poisons."""


@pytest.fixture
def dataset(digits_folder):
    return base_shards.load(digits_folder)


@pytest.fixture
def shown(dataset, tmp_path):
    """The view, the network, and poisons that are the targets' own pixels."""
    model = models.build(Network(name="convnet", width=4, depth=3), dataset.info, 3)
    base = dataset.train.of([5, 6])
    poisons = PoisonSet(base.ids, dataset.test.of(CASE.target_ids).array, base.labels, {})
    return features.view(model, dataset, poisons, CASE, context(tmp_path)), model


def test_the_side_of_the_boundary_is_what_the_network_says(shown, dataset, tmp_path):
    found, model = shown
    logits = predict(model, dataset.train, context(tmp_path)).double().numpy()
    p, q, r = found["boundary"]
    for name, label in (("target class", 4), ("intended class", 7)):
        rows = np.flatnonzero(dataset.train.labels == label)
        rows = np.setdiff1d(rows, [5, 6])[: features.MOST]
        x, y = np.array(found["points"][name]).T
        assert np.allclose(p * x + q * y + r, logits[rows, 7] - logits[rows, 4], atol=1e-4)


def test_the_axes_go_through_the_centroids_and_collisions_show(shown):
    points = {name: np.array(of) for name, of in shown[0]["points"].items()}
    first, second = points["target class"].mean(0), points["intended class"].mean(0)
    assert np.allclose(first, -second, atol=1e-6) and second[0] > 0 and abs(second[1]) < 1e-6
    assert np.allclose(points["poison"], points["target"], atol=1e-6), "the same image has the same features"
    assert not np.allclose(points["base"], points["poison"], atol=1e-2)


def test_the_pictures_show_every_kind_of_point_and_every_victim(shown):
    names = {"target class": "four", "intended class": "seven"}
    figure = feature_figure.feature_picture("Case 0", {"clean": shown[0], "poisoned": shown[0]}, names)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["clean victim", "poisoned victim"]
    (legend,) = figure.legends
    told = {text.get_text() for text in legend.get_texts()}
    assert told == {"target class four", "intended class seven", "base", "poison", "target", "decision boundary"}
    panel = figure.axes[0]
    offsets = [len(points.get_offsets()) for points in panel.collections]
    assert offsets == [len(shown[0]["points"][name]) for name in feature_figure.LOOKS]
    angles = feature_figure.deviation_picture([([1, 2], [0.0, 10.0]), ([1, 2], [0.0, 30.0])])
    assert [line.get_ydata()[-1] for line in angles.axes[0].lines] == [10, 30, 20]
