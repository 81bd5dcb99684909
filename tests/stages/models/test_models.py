"""What every network must do, asked of every name in the registry; then what is particular to some."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.config import InputError
from stages.data.images import DatasetInfo
from stages.models import BUILDERS, build, load, save
from stages.models.config import NETWORKS, Network

SMALL = [name for name in NETWORKS if "/" not in name]
CONVOLUTIONAL = [name for name in SMALL if name not in ("linear", "mlp")]
SHAPES = [(32, 32, 3), (28, 28, 1), (8, 8, 1)]


def dataset(shape: tuple[int, int, int] = (32, 32, 3), classes: int = 10) -> DatasetInfo:
    mean, std = (0.49, 0.48, 0.45)[: shape[2]], (0.25, 0.24, 0.26)[: shape[2]]
    return DatasetInfo("drawn", tuple(f"class {index}" for index in range(classes)), shape, mean, std)


def drawn(info: DatasetInfo, count: int = 4) -> torch.Tensor:
    height, width, channels = info.shape
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(7))


def thin(name: str) -> Network:
    """The network with a width of 8, where it has one."""
    return Network(name=name, **{field: 8 for field in NETWORKS[name].choices if field == "width"})


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_name_has_a_builder_and_every_builder_a_name() -> None:
    assert BUILDERS.keys() == NETWORKS.keys()


@pytest.mark.parametrize(("name", "shape"), list(product(SMALL, SHAPES)))
def test_a_network_is_features_and_a_head_and_all_of_it_learns(name: str, shape: tuple[int, int, int]) -> None:
    info = dataset(shape)
    model = build(Network(name=name), info, 1)
    images = drawn(info)
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name
    model.eval()
    features, logits = model.features(images), model(images)
    assert features.shape == (4, model.head.in_features) and logits.shape == (4, 10)
    assert torch.equal(model.head(features), logits)
    in_channels_last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(in_channels_last, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*SMALL, "torchvision/shufflenet_v2_x0_5"])
def test_weights_are_a_function_of_the_seed_alone(name: str) -> None:
    network, info = Network(name=name), dataset()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build(network, info, 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again, other = build(network, info, 1), build(network, info, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)
    firsts = (next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)) for model in (first, other))
    assert not torch.equal(*(layer.weight for layer in firsts))


@pytest.mark.parametrize(("name", "training"), list(product(SMALL, [False, True])))
def test_a_gradient_can_be_differentiated_again(name: str, training: bool) -> None:
    info = dataset()
    model = build(thin(name), info, 1).train(training)
    images = drawn(info).requires_grad_()
    loss = nn.functional.cross_entropy(model(images), torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    (mixed,) = torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in gradients]).sum(), images)
    assert mixed.isfinite().all() and mixed.any()


@pytest.mark.parametrize("activation", ["softplus", "gelu"])
def test_a_smooth_convnet_agrees_with_finite_differences_twice_over(activation: str) -> None:
    info = dataset((8, 8, 1))
    network = Network.model_validate({"name": "convnet", "width": 4, "depth": 4, "activation": activation})
    model = build(network, info, 1).double()
    images = drawn(info, 2).double().requires_grad_()

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(pixels), torch.arange(2))

    assert torch.autograd.gradgradcheck(loss, images)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnet", 1_131_530),
        ("resnet18", 11_173_962),
        ("resnet20", 272_474),
        ("resnet34", 21_282_122),
        ("resnet50", 23_520_842),
        ("mobilenet-v2", 2_296_922),
        ("vgg11", 9_231_114),
        ("vgg13", 9_416_010),
        ("vgg16", 14_728_266),
        ("alexnet", 70_410),
    ],
)
def test_cifar10_networks_have_the_published_sizes(name: str, count: int) -> None:
    assert parameters(build(Network(name=name), dataset(), 0)) == count


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_width_scales_a_network(name: str) -> None:
    paper = NETWORKS[name].choices["width"]
    narrow, wide = (build(Network(name=name, width=width), dataset(), 0) for width in (paper // 4, paper // 2))
    assert 3 * parameters(narrow) < parameters(wide) < 4.5 * parameters(narrow)


def test_a_convnet_of_depth_d_has_d_layers_and_room_for_any_image() -> None:
    for depth, side in product((3, 4, 6, 8), (1, 5, 8, 16, 28, 64)):
        info = dataset((side, side + 1, 1))
        model = build(Network(name="convnet", width=2, depth=depth), info, 0)
        assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth
        assert model(drawn(info)).shape == (4, 10)


@pytest.mark.parametrize("name", ["convnet", "alexnet"])
def test_batch_norm_comes_with_every_convolution_or_with_none(name: str) -> None:
    for wanted, count in ((False, 0), (True, 5)):
        model = build(Network(name=name, batch_norm=wanted), dataset(), 0)
        assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == count


def test_pixels_are_normalised_inside() -> None:
    info = dataset((8, 8, 1))
    model = build(Network(name="convnet"), info, 0).eval()
    seen: list[torch.Tensor] = []
    model.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = drawn(info)
    model(images)
    torch.testing.assert_close(seen[0], (images - info.mean[0]) / info.std[0])


def test_images_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 channels .* takes 1"):
        build(Network(name="convnet"), dataset((8, 8, 1)), 0)(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "googlenet", "mobilenet_v3_small", "vit_b_32", "swin_t"])
def test_a_torchvision_network_takes_grey_images_and_returns_plain_logits_in_training(name: str) -> None:
    info = dataset((64, 64, 1), classes=7)
    model = build(Network(name=f"torchvision/{name}"), info, 0)
    images = drawn(info, 2)
    assert model(images).shape == (2, 7)
    model.eval()
    assert model.features(images).shape == (2, model.head.in_features)
    assert torch.equal(model.head(model.features(images)), model(images))


@pytest.mark.parametrize(("name", "side"), [("inception_v3", 32), ("maxvit_t", 32), ("vit_b_16", 40), ("alexnet", 16)])
def test_images_without_room_are_refused_before_anything_is_computed(name: str, side: int) -> None:
    with pytest.raises(InputError, match=f"torchvision/{name} .* {side}×{side}"):
        build(Network(name=f"torchvision/{name}"), dataset((side, side, 3)), 0)


def cached(hub: Path, name: str, weights: str, state: object) -> Path:
    """Puts `state` where torch.hub keeps the downloaded weights."""
    from torchvision.models import get_model_weights

    file = hub / "hub" / "checkpoints" / Path(get_model_weights(name)[weights].url).name
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mnasnet0_5", "densenet121", "googlenet"])
def test_pretrained_weights_compute_what_they_compute_in_torchvision(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model, get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    extra = {"init_weights": True} if name == "googlenet" else {}
    published = get_model(name, **extra).state_dict()
    if name == "densenet121":  # was published under other names, before batch normalisation counted its batches
        published = {
            re.sub(r"(layer\d+\.(norm|conv))([12])\.", r"\1.\3.", key): value
            for key, value in published.items()
            if not key.endswith("num_batches_tracked")
        }
    cached(tmp_path, name, "IMAGENET1K_V1", published)
    theirs = get_model(name, weights="IMAGENET1K_V1").eval()
    info = dataset((64, 64, 3), classes=1000)
    network = Network(name=f"torchvision/{name}", weights="IMAGENET1K_V1")
    ours = build(network, info, 0).eval()
    images = drawn(info, 2)
    transforms = get_model_weights(name)["IMAGENET1K_V1"].transforms()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transforms.mean, transforms.std))
    torch.testing.assert_close(ours(images), theirs((images - mean) / std), rtol=1e-4, atol=1e-4)
    save(ours, tmp_path / "saved", network, info)
    monkeypatch.setenv("TORCH_HOME", "/nowhere/that/exists")
    assert torch.equal(load(tmp_path / "saved")(images), ours(images))


def test_weights_for_other_classes_come_without_their_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached(tmp_path, "mobilenet_v3_small", "IMAGENET1K_V1", get_model("mobilenet_v3_small").state_dict())
    network = Network(name="torchvision/mobilenet_v3_small", weights="IMAGENET1K_V1")
    assert network.new_head(2) and not network.new_head(1000) and not Network(name="convnet").new_head(2)
    whole, one, two = (
        build(network, dataset((64, 64, 3), classes), seed).eval() for classes, seed in ((1000, 0), (2, 0), (2, 1))
    )
    images = drawn(dataset((64, 64, 3)))
    assert torch.equal(one.features(images), whole.features(images))
    assert one.head.weight.shape == (2, 1024) and not torch.equal(one.head.weight, two.head.weight)


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = Network(name="torchvision/mobilenet_v3_small", weights="IMAGENET1K_V1")
    info = dataset((64, 64, 3), classes=1000)
    cached(tmp_path, "mobilenet_v3_small", "IMAGENET1K_V1", {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="do not fit"):
        build(network, info, 0)
    cached(tmp_path, "mobilenet_v3_small", "IMAGENET1K_V1", Hostile(tmp_path / "trace"))
    with pytest.raises(InputError, match="damaged"):
        build(network, info, 0)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_network_comes_back_the_same(name: str, tmp_path: Path) -> None:
    network, info = thin(name), dataset((8, 8, 1))
    model = build(network, info, 5).to(memory_format=torch.channels_last)
    images = drawn(info)
    model(images)  # moves the running statistics of batch normalisation away from their start
    save(model, tmp_path, network, info)
    back = load(tmp_path)
    assert back.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in back.state_dict().items())
    torch.testing.assert_close(back(images), model.eval()(images))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    network, info = Network(name="convnet", width=4), dataset((8, 8, 1))
    with pytest.raises(InputError, match="should hold"):
        load(tmp_path)
    save(build(network, info, 0), tmp_path, network, info)
    weights, description = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole, text = weights.read_bytes(), description.read_text()

    weights.write_bytes(whole[:-10])
    with pytest.raises(InputError, match="no readable network"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="should hold"):
        load(tmp_path)
    torch.save(build(network, info, 0).state_dict(), weights)  # a pickle
    with pytest.raises(InputError, match="no readable network"):
        load(tmp_path)
    weights.write_bytes(whole)
    description.write_text(text.replace('"convnet"', '"covnet"'))
    with pytest.raises(InputError, match="did you mean 'convnet'"):
        load(tmp_path)
    description.write_text(text.replace('"depth": 6', '"depth": 5'))
    with pytest.raises(InputError, match=r"not of the convnet .* for body\.6\.bias it holds \[16\] .*, expected none"):
        load(tmp_path)
    description.write_text(text)
    save_file({name: value.double() for name, value in load_file(weights).items()}, weights)
    with pytest.raises(InputError, match=r"float64.*expected.*float32"):
        load(tmp_path)
