"""How fast training images are read, cropped and flipped, against FFCV's loader used by hand, a plain copy of the
bytes, torchvision's ImageFolder and Hugging Face datasets: two workers each, on the same images in the page cache."""

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from photos import photos, write_shards, write_tree
from PIL import Image

from stages.data.images import ImageSet
from stages.shards import arrow, base_shards
from stages.shards.config import Shards
from stages.training.batches import Batches
from stages.training.config import Augmentation

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

COUNT, BATCH, WORKERS, PAD = 2400, 256, 2, 28
ON = "224x224"

Epoch = Callable[[], int]
"""Goes through all images once and says how many there were."""


@pytest.fixture(scope="module")
def images(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("sample")
    with tarfile.open(test_data / "imagenet-sample-60.tar") as tar:
        tar.extractall(folder, filter="data")
    return photos(folder, COUNT)


@pytest.fixture(scope="module")
def folders(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images in every form."""
    top = tmp_path_factory.mktemp("forms")
    return {
        "arrow": write_shards(images, top / "arrow", Shards()),
        "beton": write_shards(images, top / "beton", Shards(format="beton")),
        "jpeg beton": write_shards(images, top / "jpeg", Shards(format="beton", jpeg_quality=90)),
        "tree": write_tree(images, top / "tree"),
        "parquet": _parquet(images, top),
    }


def _parquet(images: ImageSet, folder: Path) -> Path:
    import datasets

    def rows() -> Iterator[dict[str, Any]]:
        for image, label in zip(images.images, images.labels.tolist(), strict=True):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG", quality=90)
            yield {"image": {"bytes": stream.getvalue(), "path": None}, "label": label}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    made = datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder / "cache"))
    made.to_parquet(folder / "photos.parquet")
    return folder / "photos.parquet"


def ours(folder: Path) -> Epoch:
    """The iterator that victims are trained from."""
    train = base_shards.load(folder).train
    batches = Batches(train, BATCH, Augmentation(pad=PAD), torch.device("cpu"), threads=WORKERS)
    seeds = iter(range(10_000))
    return lambda: sum(len(batch.labels) for batch in batches.epoch(np.random.default_rng(next(seeds))))


def plain_copy(folder: Path) -> Epoch:
    """Nothing but the bytes, from the same memory map to batches."""
    source = arrow.read_images(folder / "train-00000-of-00001.arrow")[0].images
    targets = np.empty((WORKERS, BATCH // WORKERS, *source.shape[1:]), np.uint8)
    pool = ThreadPoolExecutor(WORKERS)

    def copy(worker: int, rows: slice) -> None:
        np.copyto(targets[worker, : rows.stop - rows.start], source[rows])

    def epoch() -> int:
        for start in range(0, len(source), BATCH):
            bounds = np.linspace(start, min(start + BATCH, len(source)), WORKERS + 1, dtype=int).tolist()
            list(pool.map(copy, range(WORKERS), [slice(*pair) for pair in pairwise(bounds)]))
        return len(source)

    return epoch


def ffcv_by_hand(folder: Path) -> Epoch:
    """FFCV's loader with its own flip and translation, as its documentation sets it up."""
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, RandomTranslate, Squeeze, ToTensor

    loader = Loader(
        str(folder / "train-00000-of-00001.beton"),
        batch_size=BATCH,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={
            "image": [SimpleRGBImageDecoder(), RandomHorizontalFlip(), RandomTranslate(padding=PAD), ToTensor()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        },
    )
    return lambda: sum(len(labels) for _, labels in loader)


def image_folder(folder: Path) -> Epoch:
    """torchvision's ImageFolder and torch's DataLoader."""
    from torchvision import datasets, transforms

    steps = [transforms.RandomCrop(224, padding=PAD), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    return _data_loader(datasets.ImageFolder(str(folder / "train"), transforms.Compose(steps)))


def hugging_face(file: Path) -> Epoch:
    """Hugging Face datasets on Parquet, with torchvision's transforms."""
    import datasets
    from torchvision import transforms

    steps = [transforms.RandomCrop(224, padding=PAD), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    transform = transforms.Compose(steps)

    def transformed(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"image": [transform(image) for image in rows["image"]], "label": rows["label"]}

    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), split="train", cache_dir=str(file.parent / "loaded")
    ).with_transform(transformed)
    return _data_loader(loaded)


def _data_loader(dataset: Any) -> Epoch:
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
    )
    return lambda: sum(len(batch["label"] if isinstance(batch, dict) else batch[1]) for batch in loader)


def rate(epoch: Epoch, epochs: int) -> float:
    """Images a second."""
    began = time.perf_counter()
    for _ in range(epochs):
        assert epoch() == COUNT
    return epochs * COUNT / (time.perf_counter() - began)


def test_images_are_read_at_the_rate_of_memory(folders: dict[str, Path], figures: "Figures") -> None:
    pytest.importorskip("ffcv")
    contenders: dict[str, tuple[Epoch, int]] = {
        "ours, arrow": (ours(folders["arrow"]), 8),
        "ours, beton": (ours(folders["beton"]), 8),
        "ours, jpeg beton": (ours(folders["jpeg beton"]), 1),
        "plain copy of the bytes": (plain_copy(folders["arrow"]), 8),
        "FFCV by hand, beton": (ffcv_by_hand(folders["beton"]), 1),
        "FFCV by hand, jpeg beton": (ffcv_by_hand(folders["jpeg beton"]), 1),
        "ImageFolder + DataLoader, jpegs": (image_folder(folders["tree"]), 1),
        "datasets + DataLoader, parquet": (hugging_face(folders["parquet"]), 1),
    }
    for epoch, _ in contenders.values():
        assert epoch() == COUNT  # compiles, starts workers, and fills the page cache
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(figures.rounds):
        for name, (epoch, epochs) in contenders.items():
            rates[name].append(rate(epoch, epochs))
    for name, found in rates.items():
        figures.ratio(f"{name}, images/s", ON, None, BATCH, found)

    def against(one: str, other: str, at_least: float) -> Any:
        ratios = np.array(rates[one]) / np.array(rates[other])
        return figures.ratio(f"{one} / {other}", ON, None, BATCH, ratios, at_least=at_least)

    figures.check(
        *(
            against(f"ours, {form}", other, at_least)
            for form in ("arrow", "beton")
            for other, at_least in (
                ("plain copy of the bytes", 0.5),
                ("FFCV by hand, beton", 3),
                ("ImageFolder + DataLoader, jpegs", 5),
                ("datasets + DataLoader, parquet", 3),
            )
        ),
        against("ours, jpeg beton", "FFCV by hand, jpeg beton", 0.95),
    )
