"""The same poisoned dataset by every road: Arrow shards, .beton shards, and the image folder exported from either."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import export, retrain
from stages.data.cases import Case
from stages.data.dataset_config import DatasetConfig, ImageFolder, ImageNet, TinyImageNet
from stages.data.datasets import resolve
from stages.data.images import Dataset
from stages.interchange import FORMATS, Content
from stages.interchange.delivery import deliver
from stages.models.config import Network
from stages.shards import base_shards, overlay, poisons
from stages.shards.config import Shards
from stages.stage import Checkpoint, Context, Runtime
from stages.training.config import Augmentation, Constant, Training

Prepared = Callable[..., Path]
FORMS = {"arrow": Shards(images_per_shard=64), "beton": Shards(format="beton", images_per_shard=64)}
EPS = 8


def quiet(images: int) -> None:
    """Nobody watches."""


def context(folder: Path) -> Context:
    return Context(0, Runtime(device="cpu", cpus=2), Checkpoint(folder / "checkpoint"))


@dataclass(frozen=True)
class Poisoned:
    """A base and an overlay on it, as stages leave them."""

    base: Path
    overlay: Path

    def dataset(self) -> Dataset:
        return overlay.apply(base_shards.load(self.base), self.overlay)

    def content(self, only_poisons: bool) -> Content:
        dataset, poison_set = base_shards.load(self.base), poisons.load(self.overlay, overlay.STEM)
        label = int(poison_set.labels[0])
        case = Case(
            name="first → last",
            target_class=0,
            intended_class=label,
            poison_class=label,
            target_ids=(0,),
            poison_ids=tuple(poison_set.ids.tolist()),
            seed=None,
        )
        return Content(dataset, poison_set, case, only_poisons, shards=base_shards.files(self.base))


def poisoned(config: DatasetConfig, shards: Shards, count: int, folder: Path, prepared: Prepared) -> Poisoned:
    """The dataset prepared, and `count` images of its last class changed at random within eps."""
    base = prepared(config, folder / "prepared", shards)
    train = base_shards.load(base).train
    chosen = train.of(np.flatnonzero(train.labels == train.labels.max())[:count])
    noise = np.random.default_rng(0).integers(-EPS, EPS + 1, chosen.array.shape)
    images = np.clip(chosen.array.astype(int) + noise, 0, 255).astype(np.uint8)
    made, out = folder / "poisons", folder / "overlay"
    made.mkdir()
    out.mkdir()
    poisons.save(poisons.PoisonSet(chosen.ids, images, chosen.labels, {"brew_loss": 0.1}), made)
    export.run(export.Params(eps=EPS), {"dataset": base, "poisons": made}, out, context(folder))
    return Poisoned(base, out)


def trained(inputs: dict[str, Path], augmentation: Augmentation, folder: Path) -> tuple[list[float], float]:
    """Losses of a small victim, and its accuracy on the test split at the end."""
    training = Training(
        epochs=4, batch_size=32, learning_rate=0.02, schedule=Constant(), augmentation=augmentation, precision="float32"
    )
    params = retrain.Params(network=Network(name="convnet", depth=4, width=16), training=training, seed=3)
    folder.mkdir()
    retrain.run(params, inputs, folder, context(folder))
    import json

    from safetensors.numpy import load_file

    logits = load_file(folder / "watched.safetensors")["logits"][-1]
    labels = base_shards.load(inputs["dataset"]).test.labels
    return json.loads((folder / "curves.json").read_text())["loss"], float((logits.argmax(1) == labels).mean())


@pytest.fixture(scope="module")
def tiny(tiny_imagenet_folder: Path, tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> dict[str, Any]:
    """Tiny ImageNet, poisoned, on shards of each form."""
    config = resolve(TinyImageNet(root=tiny_imagenet_folder, per_class=15, test_per_class=5))
    return {
        name: poisoned(config, shards, 6, tmp_path_factory.mktemp(name), prepared) for name, shards in FORMS.items()
    }


@pytest.mark.parametrize(
    "augmentation",
    [
        pytest.param(Augmentation(flip=False, pad=0), id="as-is", marks=pytest.mark.slow),
        pytest.param(Augmentation(pad=8), id="crops"),
    ],
)
def test_a_victim_is_the_same_from_every_form(
    tiny: dict[str, Poisoned], augmentation: Augmentation, tmp_path: Path, prepared: Prepared
) -> None:
    found = {
        name: trained({"dataset": made.base, "overlay": made.overlay}, augmentation, tmp_path / name)
        for name, made in tiny.items()
    }
    assert found["beton"] == found["arrow"], "the same pixels in the same order, to the last bit"
    deliver(FORMATS["image-folder"], tiny["arrow"].content(False), tmp_path / "tree", {}, quiet, quiet)
    tree = resolve(ImageFolder(name="exported", size=64, resize=64, root=tmp_path / "tree"))
    base = prepared(tree, tmp_path / "again")
    again, expected = base_shards.load(base), tiny["arrow"].dataset()
    assert np.array_equal(again.train.array, expected.train.array)
    assert np.array_equal(again.train.labels, expected.train.labels)
    losses, accuracy = trained({"dataset": base}, augmentation, tmp_path / "folder")
    # Not to the last bit: the exported folder's mean and deviation are those of its poisons too.
    assert losses == pytest.approx(found["arrow"][0], rel=2e-3)
    assert accuracy == pytest.approx(found["arrow"][1], abs=0.05)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name, format_ in FORMATS.items() if not format_.reads_at_once])
def test_full_size_images_leave_in_every_format(
    imagenet_poisoned: dict[str, Poisoned], form: str, name: str, tmp_path: Path
) -> None:
    """`deliver` compares every poison and a sample of the others with what the format's reader gives."""
    content = imagenet_poisoned[form].content(FORMATS[name].only_poisons)
    deliver(FORMATS[name], content, tmp_path / "out", {}, quiet, quiet)
    assert (tmp_path / "out/about.json").exists()


@pytest.fixture(scope="module")
def imagenet_poisoned(
    imagenet_sample_folder: Path, tmp_path_factory: pytest.TempPathFactory, prepared: Prepared
) -> dict[str, Poisoned]:
    """60 real ImageNet images in its layout, twice in train and once in val, poisoned, on shards of each form."""
    root = tmp_path_factory.mktemp("imagenet")
    for file in sorted(imagenet_sample_folder.glob("*/*.JPEG")):
        for place in ("train/{}/a.JPEG", "train/{}/b.JPEG", "val/{}/a.JPEG"):
            copy = root / place.format(file.parent.name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    config = resolve(ImageNet(root=root))
    return {
        name: poisoned(config, shards, 2, tmp_path_factory.mktemp(name), prepared) for name, shards in FORMS.items()
    }


def test_imagenets_forms_hold_the_same_pixels(imagenet_poisoned: dict[str, Poisoned]) -> None:
    one, other = (imagenet_poisoned[form].dataset() for form in FORMS)
    assert one.info == other.info and one.info.shape == (224, 224, 3)
    assert (len(one.train), len(one.test)) == (120, 60)
    assert np.array_equal(one.train.array, other.train.array) and np.array_equal(one.test.array, other.test.array)
