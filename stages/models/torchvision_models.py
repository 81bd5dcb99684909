"""torchvision's classification networks for ImageNet, from random or pretrained weights, cut into body and head."""

import re
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from stages.config import InputError
from stages.data.images import DatasetInfo
from stages.models.classifier import Classifier
from stages.models.config import Network

_GOOGLE = ("googlenet", "inception_v3")


def torchvision_model(network: Network, info: DatasetInfo) -> Classifier:
    """A torchvision network made for `info`'s image size and classes. One-channel images are repeated to three.

    Without weights it normalises as the dataset; with weights as the weights were trained. Weights for another number
    of classes (see `Network.new_head`) are taken without their last layer, which is random then. Raises InputError
    where the network cannot take such images, or where the weights are for another size of image.
    """
    name = network.name.removeprefix("torchvision/")
    height, width, channels = info.shape
    options: dict[str, Any] = {}
    if name in _GOOGLE:
        # Auxiliary heads would make the output a tuple in training.
        options = {"aux_logits": False, "init_weights": network.weights is None}
    elif name.startswith("vit_"):
        options = {"image_size": height}
    elif name == "maxvit_t":
        options = {"input_size": (height, width)}
    try:
        model: nn.Module = get_model(name, weights=None, num_classes=len(info.classes), **options)
    except (AssertionError, ValueError) as error:
        raise InputError(f"network {network.name} cannot be made for {height}×{width} images: {error}") from error
    mean, std = (list(values) * (3 // channels) for values in (info.mean, info.std))
    path, head = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
    if network.weights is not None:
        mean, std = _load_weights(model, path, network, info)
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    return Classifier(model, head, info, mean, std)


def _load_weights(model: nn.Module, head: str, network: Network, info: DatasetInfo) -> tuple[list[float], list[float]]:
    """Put the pretrained weights into `model`, whose last layer is `head`; the normalisation that they expect."""
    name = network.name.removeprefix("torchvision/")
    weights = get_model_weights(name)[network.weights]
    try:
        # torchvision's own loading does not ask for weights_only, and would unpickle whatever it downloaded.
        found = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        _rename(name, found)
        if network.new_head(len(info.classes)):
            found.update({name: value for name, value in model.state_dict().items() if name.startswith(f"{head}.")})
        model.load_state_dict(found)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        raise InputError(
            f"network.weights {network.weights} of {network.name} do not fit a network for "
            f"{info.shape[0]}×{info.shape[1]} images, or {torch.hub.get_dir()}/checkpoints holds a damaged copy of "
            f"{weights.url}: {error}"
        ) from error
    if name in _GOOGLE:  # their forward pass would turn ImageNet's normalisation into this one, which they came with
        return [0.5] * 3, [0.5] * 3
    transforms = weights.transforms()
    return list(transforms.mean), list(transforms.std)


def _rename(name: str, state: dict[str, torch.Tensor]) -> None:
    """Bring published weights under the names that torchvision uses today, and drop auxiliary heads.

    In place: the layers read the versions that torch keeps as an attribute of the dict."""
    for key in list(state):
        if name in _GOOGLE and key.lower().startswith("aux"):
            del state[key]
        elif name.startswith("densenet"):
            state[re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)] = state.pop(key)
