"""Which weight each parameter gets, and which patterns are refused."""

import pytest

from stages.brew.layers import precheck_layers, weights_of
from stages.config import InputError
from stages.models import Network

NAMES = ("body.0.weight", "body.0.bias", "body.10.weight", "head.weight", "head.bias")

WEIGHTS = {
    "a module": ({"body": 0}, (0, 0, 0, 1, 1)),
    "one and no other that begins alike": ({"body.1": 3, "body": 0}, None),
    "a parameter": ({"head.bias": 0}, (1, 1, 1, 1, 0)),
    "a glob": ({"*.bias": 0.5}, (1, 0.5, 1, 1, 0.5)),
    "the longest counts": ({"body": 0, "body.10": 2, "body.0.b*": 3}, (0, 3, 2, 1, 1)),
    "in any order": ({"body.0.b*": 3, "body.10": 2, "body": 0}, (0, 3, 2, 1, 1)),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_patterns_give_weights(what):
    layers, expected = WEIGHTS[what]
    if expected is None:
        with pytest.raises(InputError, match=r"'body\.1' names no parameter"):
            weights_of(layers, NAMES)
    else:
        assert weights_of(layers, NAMES) == dict(zip(NAMES, expected, strict=True))


REFUSED = {
    "'heed' names no parameter of the surrogate, did you mean 'head'": {"heed": 1},
    "head.b and .*ias both name head.bias, with other weights": {"head.b*": 1, "*d.bias": 2},
    "all parameters weigh 0": {"body": 0, "head": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused(message):
    with pytest.raises(InputError, match=message.replace("head.b and .*ias", r"head\.b\* and \*d\.bias")):
        weights_of(REFUSED[message], NAMES)


def test_every_network_of_an_ensemble_is_looked_at_without_its_numbers():
    networks = [Network(name="convnet"), Network(name="resnet20")]
    precheck_layers({"head": 2}, networks, (32, 32, 3), 10)
    precheck_layers({"body.4.weight": 2}, networks[:1], (32, 32, 3), 10)
    with pytest.raises(InputError, match=r"'body\.4\.weight' names no parameter of the surrogate"):
        precheck_layers({"body.4.weight": 2}, networks, (32, 32, 3), 10)
