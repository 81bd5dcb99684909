"""Preparing a tree of JPEGs against FFCV's writer alone on the same files: both decode, resize and crop on two
cores."""

import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from stages import shard
from stages.data.dataset_config import ImageFolder
from stages.data.datasets import resolve
from stages.shards.config import Shards
from stages.stage import Checkpoint, Context, Runtime

if TYPE_CHECKING:
    from conftest import Figures

pytestmark = pytest.mark.bench

COPIES = 20

WRITE_WITH_FFCV = """
import sys
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from torchvision import datasets, transforms

form = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
fields = {"image": RGBImageField(write_mode=sys.argv[3], jpeg_quality=90), "label": IntField()}
DatasetWriter(sys.argv[2], fields, num_workers=2).from_indexed_dataset(datasets.ImageFolder(sys.argv[1], form))
"""


@pytest.fixture(scope="module")
def tree(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's images, each COPIES times, as an ImageNet tree."""
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(test_data / "imagenet-sample-60.tar") as tar:
        tar.extractall(folder, filter="data")
    for file in sorted((folder / "imagenet-sample-60").rglob("*.JPEG")):
        with Image.open(file) as image:
            image.load()
        for split, copies in (("train", COPIES), ("val", 1)):
            place = folder / "tree" / split / file.parent.name
            place.mkdir(parents=True)
            for copy in range(copies):
                (place / f"{copy:03d}.JPEG").hardlink_to(file)
    return folder / "tree"


@pytest.mark.parametrize(("form", "mode"), [("arrow", "raw"), ("beton", "raw"), ("beton", "jpg")])
def test_preparing_keeps_up_with_ffcvs_writer(
    form: str, mode: str, tree: Path, tmp_path: Path, figures: "Figures"
) -> None:
    pytest.importorskip("ffcv")
    dataset = resolve(ImageFolder(root=tree, name="sample", size=224))
    shards = Shards.model_validate({"format": form, "jpeg_quality": 90 if mode == "jpg" else None})
    params = shard.Params(dataset=dataset, shards=shards, split="train", index=0)
    count, ratios, rates = 60 * COPIES, [], {"ours": [], "FFCV's writer": []}
    for turn in range(figures.rounds):
        out = tmp_path / str(turn)
        out.mkdir()
        ctx = Context(0, Runtime(device="cpu", cpus=2), Checkpoint(out / "checkpoint"))
        began = time.perf_counter()
        assert shard.run(params, {}, out, ctx)["images"] == count
        mine = time.perf_counter() - began
        command = [sys.executable, "-c", WRITE_WITH_FFCV, str(tree / "train"), str(out / "ffcv.beton"), mode]
        began = time.perf_counter()
        subprocess.run([*command[:2], "import ffcv, torchvision"], check=True)
        imports = time.perf_counter() - began
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        theirs = time.perf_counter() - began - imports
        ratios.append(theirs / mine)
        rates["ours"].append(count / mine)
        rates["FFCV's writer"].append(count / theirs)
    for name, found in rates.items():
        figures.ratio(f"prepare, {form} {mode}, {name}, images/s", "jpegs", None, None, found)
    what = f"prepare, {form} {mode}, ours / FFCV's writer"
    figures.check(figures.ratio(what, "jpegs", None, None, np.array(ratios), at_least=0.9))
