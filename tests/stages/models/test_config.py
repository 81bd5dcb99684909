"""Which networks there are, what each leaves open, and what is refused."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from stages.models.config import NETWORKS, Network, default_learning_rate


def test_every_torchvision_classifier_with_a_linear_head_has_a_name() -> None:
    import torchvision

    theirs = torchvision.models.list_models(module=torchvision.models, exclude="squeezenet*")
    assert {name for name in NETWORKS if "/" in name} == {f"torchvision/{name}" for name in theirs}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resnet81"}, "did you mean 'resnet18'"),
        ({"name": "torchvision/resnet81"}, "did you mean 'torchvision/resnet18'"),
        ({"name": "resnet18", "depth": 6}, "depth does not apply to resnet18"),
        ({"name": "vgg11", "batch_norm": False}, "batch_norm does not apply to vgg11"),
        ({"name": "alexnet", "activation": "gelu"}, "activation does not apply to alexnet"),
        ({"name": "convnet", "weights": "DEFAULT"}, "weights does not apply to convnet"),
        ({"name": "linear", "width": 8}, "what applies to linear: nothing"),
        ({"name": "torchvision/resnet18", "width": 8}, "width does not apply to torchvision/resnet18"),
        ({"name": "torchvision/resnet18", "weights": "IMAGENET"}, "it has IMAGENET1K_V1"),
        ({"name": "torchvision/vgg16", "weights": "IMAGENET1K_FEATURES"}, "with a classifier"),
    ],
)
def test_a_network_that_cannot_be_is_refused_by_name(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Network.model_validate(fields)


def test_leaving_a_field_out_and_writing_the_papers_value_are_the_same_network() -> None:
    short = Network(name="convnet")
    assert short == Network(name="convnet", width=64, depth=6, batch_norm=False, activation="relu")
    assert short == Network.model_validate_json(short.model_dump_json())
    newest = Network(name="torchvision/resnet50", weights="DEFAULT")
    assert newest == Network(name="torchvision/resnet50", weights="IMAGENET1K_V2")


def test_default_learning_rates() -> None:
    low = {name for name in NETWORKS if "/" not in name and default_learning_rate(name) == 0.01}
    assert low == {"convnet", "convnet-bn", "mobilenet-v2", "vgg11", "vgg13", "vgg16", "alexnet", "linear", "mlp"}
    assert {default_learning_rate(name) for name in NETWORKS.keys() - low if "resnet" in name} == {0.1}


def test_naming_a_network_does_not_import_torch() -> None:
    code = """if True:
        import sys
        from stages.models import Network
        Network(name='torchvision/resnet18')
        assert 'torch' not in sys.modules
    """
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
