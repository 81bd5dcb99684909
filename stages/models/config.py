"""Which network an experiment asks for: names, the choices each leaves open, and the papers' values for them.

No torch here: an experiment is planned, keyed and refused without loading it. The networks themselves are built by
`stages.models.build`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from stages.config import Config


@dataclass(frozen=True)
class Traits:
    """What is known of a network by its name.

    learning_rate: the peak rate its papers train it with, for batches of 128.
    choices: the fields of `Network` that apply to it, with the papers' values.
    """

    learning_rate: float
    choices: dict[str, Any]


_TORCHVISION = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169 densenet201
efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf
regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf
regnet_y_32gf regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19
vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
""".split()  # noqa: SIM905
"""torchvision's classification networks that end in a linear layer (squeezenet ends in a convolution: it has no head).
Written out because asking torchvision takes seconds; a test holds the list against the installed torchvision."""

NETWORKS: dict[str, Traits] = {
    "convnet": Traits(0.01, {"width": 64, "depth": 6, "batch_norm": False, "activation": "relu"}),
    "convnet-bn": Traits(0.01, {"width": 64}),
    "resnet18": Traits(0.1, {"width": 64}),
    "resnet20": Traits(0.1, {"width": 16}),
    "resnet34": Traits(0.1, {"width": 64}),
    "resnet50": Traits(0.1, {"width": 64}),
    "mobilenet-v2": Traits(0.01, {"width": 32}),
    "vgg11": Traits(0.01, {"width": 64}),
    "vgg13": Traits(0.01, {"width": 64}),
    "vgg16": Traits(0.01, {"width": 64}),
    "alexnet": Traits(0.01, {"width": 16, "batch_norm": False}),
    "linear": Traits(0.01, {}),
    "mlp": Traits(0.01, {"width": 512, "depth": 3}),
    **{
        f"torchvision/{name}": Traits(
            0.01 if name.startswith(("alexnet", "mobilenet", "vgg")) else 0.1, choices={"weights": None}
        )
        for name in _TORCHVISION
    },
}
"""Every network by name. The learning rates are those of Witches' Brew (Geiping et al. 2021): 0.1, and a tenth of it
for ConvNet, VGG, AlexNet and MobileNet, as in its public code (poisoning-gradient-matching,
forest/victims/optimization_strategy.py); `linear` and `mlp` are not in it, and have the tenth too."""


def default_learning_rate(name: str) -> float:
    """The peak learning rate that Witches' Brew trains this network with, for batches of 128."""
    return NETWORKS[name].learning_rate


class Network(Config):
    """A network by name, and what its name leaves open. A field that does not apply to the network is refused, and one
    left out takes the papers' value, so that leaving it out and writing that value are the same network."""

    name: str
    """convnet, resnet18, … for small images, or torchvision/<name> for ImageNet; see `NETWORKS`."""
    width: Annotated[int, Field(gt=0)] | None = None
    """Channels of the first convolution, with which all others grow or shrink; of mlp, units of each hidden layer.
    Small networks only."""
    depth: Annotated[int, Field(ge=3, le=50)] | None = None
    """Layers that have weights, the last linear one counted: 6 is the 6-layer ConvNet. convnet and mlp only."""
    batch_norm: bool | None = None
    """Batch normalisation after each convolution. convnet and alexnet only."""
    activation: Literal["relu", "softplus", "gelu"] | None = None
    """Any but relu makes the whole network smooth: the pools take means instead of maxima. convnet only."""
    weights: str | None = None
    """torchvision's pretrained weights, such as IMAGENET1K_V1; DEFAULT becomes the name it stands for today.
    torchvision/… only; null starts from random weights."""

    def new_head(self, classes: int) -> bool:
        """Whether the pretrained weights are for another number of classes, so that they come without a last layer."""
        if self.weights is None:
            return False
        from torchvision.models import get_model_weights

        return (
            len(get_model_weights(self.name.removeprefix("torchvision/"))[self.weights].meta["categories"]) != classes
        )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS:
            small = ", ".join(known for known in NETWORKS if "/" not in known)
            near = get_close_matches(name, NETWORKS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"no network is called {name!r}; {hint}The networks are {small}, and torchvision/<name> for "
                "torchvision's classification networks that end in a linear layer"
            )
        return name

    @field_validator("width", "depth", "batch_norm", "activation", "weights")
    @classmethod
    def _applicable(cls, value: Any, info: ValidationInfo) -> Any:
        """The value, or the paper's where it was left out."""
        name, field = info.data.get("name"), info.field_name
        if name is None:  # the name was refused, and that error is told
            return value
        choices = NETWORKS[name].choices
        if field in choices:
            return choices[field] if value is None else value
        if value is not None:
            raise ValueError(
                f"{field} does not apply to {name}, but is {value!r}; leave it out "
                f"(what applies to {name}: {', '.join(choices) or 'nothing'})"
            )
        return None

    @field_validator("weights")
    @classmethod
    def _exists(cls, weights: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if weights is None or name is None:
            return weights
        from torchvision.models import get_model_weights

        members = get_model_weights(name.removeprefix("torchvision/")).__members__
        usable = {alias: member.name for alias, member in members.items() if member.meta["categories"]}
        if weights not in usable:
            raise ValueError(
                f"torchvision has no weights called {weights!r} with a classifier for {name}; "
                f"it has {', '.join(usable) or 'none'}"
            )
        return usable[weights]
