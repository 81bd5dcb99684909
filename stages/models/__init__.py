"""The networks that surrogates and victims are made of: built from a name and a seed, saved and loaded without pickle.

    build(network, info, seed)        a Classifier with random (or pretrained) weights
    save(model, folder, network, info), load(folder)

`stages.models.config` says which networks there are; this module joins each name to the function that builds it.
torch is imported inside the functions, so that planning an experiment stays quick.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stages.config import Config, InputError
from stages.data.images import DatasetInfo
from stages.models.config import NETWORKS, Network, default_learning_rate

if TYPE_CHECKING:
    from stages.models.classifier import Classifier

__all__ = ["BUILDERS", "Network", "build", "default_learning_rate", "load", "outline", "save"]

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


BUILDERS = {
    "convnet": "convnet.convnet",
    "convnet-bn": "convnet.convnet_bn",
    "resnet18": "resnet.resnet",
    "resnet20": "resnet.resnet",
    "resnet34": "resnet.resnet",
    "resnet50": "resnet.resnet",
    "mobilenet-v2": "mobilenet.mobilenet",
    "vgg11": "vgg.vgg",
    "vgg13": "vgg.vgg",
    "vgg16": "vgg.vgg",
    "alexnet": "alexnet.alexnet",
    "linear": "dense.linear",
    "mlp": "dense.mlp",
    **{name: "torchvision_models.torchvision_model" for name in NETWORKS if name.startswith("torchvision/")},
}
"""Every network's name and the function here that builds it; imported one by one, as torchvision takes seconds."""


def _builder(name: str) -> "Callable[[Network, DatasetInfo], Classifier]":
    """The function that builds a network, with weights drawn from torch's CPU generator."""
    module, _, function = BUILDERS[name].partition(".")
    found: Callable[[Network, DatasetInfo], Classifier] = getattr(import_module(f"stages.models.{module}"), function)
    return found


def build(network: Network, info: DatasetInfo, generator_seed: int) -> "Classifier":
    """The network for this dataset, in float32, on the CPU, in training mode; its weights are a function of the seed.

    torch's global generators are left as they were. Raises InputError where the network cannot take the dataset's
    images, or pretrained weights do not fit it.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every GPU's generator too, which fork_rng(devices=[]) does not put back.
        torch.default_generator.manual_seed(generator_seed)
        model = _builder(network.name)(network, info)
    _try_shapes(model, network, info)
    return model


def outline(network: Network, info: DatasetInfo) -> "Classifier":
    """The network on torch's device `meta`: its shapes, without numbers, for who only counts."""
    import torch

    with torch.device("meta"):
        return _builder(network.name)(network.model_copy(update={"weights": None}), info)


def _try_shapes(model: "Classifier", network: Network, info: DatasetInfo) -> None:
    """Send the shape of two images through, without computing, and refuse a network that has no room for them."""
    import torch

    shapeless = {name: value.to("meta") for name, value in [*model.named_parameters(), *model.named_buffers()]}
    height, width, channels = info.shape
    images = torch.empty(2, channels, height, width, device="meta")
    model.eval()
    try:
        torch.func.functional_call(model, shapeless, (images,))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"network {network.name} cannot take the {height}×{width} images of {info.name}: {error}; "
            "choose larger images or another network"
        ) from error
    model.train()


class SavedModel(Config):
    """What lies beside saved weights, so that the network can be built again."""

    network: Network
    dataset: DatasetInfo


def save(model: "Classifier", folder: Path, network: Network, info: DatasetInfo) -> None:
    """Write the weights (model.safetensors) and what they are weights of (model.json) into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    description = SavedModel(network=network, dataset=info).model_dump_json(indent=2)
    (folder / DESCRIPTION).write_text(description + "\n")


def load(folder: Path) -> "Classifier":
    """The network that `save` wrote, on the CPU, in evaluation mode.

    Raises InputError for a file that is missing, damaged, or holds the weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = SavedModel.model_validate_json((folder / DESCRIPTION).read_bytes())
        found = load_file(folder / WEIGHTS)
    except OSError as error:
        raise InputError(f"{folder} should hold {WEIGHTS} and {DESCRIPTION} of a trained network: {error}") from error
    except (ValidationError, SafetensorError) as error:
        raise InputError(f"{folder} holds no readable network; train it again. {error}") from error
    # The saved weights replace the pretrained ones, and their normalisation comes along: nothing to download.
    model = build(saved.network.model_copy(update={"weights": None}), saved.dataset, 0)
    expected = model.state_dict()
    for name in sorted(expected.keys() | found.keys()):
        ours, theirs = (
            f"{list(t.shape)} {t.dtype}" if (t := s.get(name)) is not None else "none" for s in (expected, found)
        )
        if ours != theirs:
            raise InputError(
                f"{folder / WEIGHTS} is not of the {saved.network.name} that {DESCRIPTION} describes: for {name} it "
                f"holds {theirs}, expected {ours}; train it again"
            )
    for name, tensor in expected.items():
        tensor.copy_(found[name])  # load_state_dict would ask for layer versions, which safetensors does not keep
    return model.eval()
