"""ImageNet's tars against torchvision's own extraction of the same tars, and what is known without ImageNet.

The tars are made of real ImageNet images, in the form and with the names of the official ones.
"""

import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.config import InputError, identity
from stages.data import imagenet
from stages.data.cases import ExplicitCase, ExplicitCases, OutlierCases, PaperCases, RandomCases
from stages.data.dataset_config import ImageFolder, ImageNet
from stages.data.datasets import describe, resolve, tree_of
from stages.data.draw import precheck
from stages.data.image_tree import list_tree
from stages.data.paper_cases import TABLES, draw_classes

DEVKIT_META, DEVKIT_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def devkit(wnids: list[str], truth: list[int]) -> dict[str, bytes]:
    """The development kit's two files: ids 1, 2, … in the order of `wnids`, then a synset that is no class."""
    from scipy.io import savemat

    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    rows = [(number, wnid, f"{wnid}, or so", "", 0, [], 0) for number, wnid in enumerate(wnids, 1)]
    rows.append((len(wnids) + 1, "n00001740", "entity", "", 2, [1, 2], 19))
    synsets = np.array(rows, dtype=[(field, object) for field in fields]).reshape(-1, 1)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return {DEVKIT_META: stream.getvalue(), DEVKIT_TRUTH: "".join(f"{label}\n" for label in truth).encode()}


def write_devkit(root: Path, files: dict[str, bytes], tar_of: Callable[..., bytes]) -> None:
    import gzip

    names = [(f"ILSVRC2012_devkit_t12/{name}", data) for name, data in files.items()]
    (root / imagenet.DEVKIT).write_bytes(gzip.compress(tar_of([("ILSVRC2012_devkit_t12/readme.txt", b""), *names])))


@pytest.fixture
def root(imagenet_sample_folder: Path, tar_of: Callable[..., bytes], tmp_path: Path) -> Path:
    """The three official files, of 9 classes with 3 train and 2 validation images each."""
    folder = tmp_path / "tars"
    folder.mkdir()
    images = sorted(imagenet_sample_folder.glob("*/*.JPEG"))
    wnids = [file.parent.name for file in images[:9]]
    data = [file.read_bytes() for file in images]
    inner = [
        (
            f"{wnid}.tar",
            tar_of([(f"{wnid}_{number}.JPEG", data[9 + 3 * row + place]) for place, number in enumerate((7, 10, 9))]),
        )
        for row, wnid in enumerate(wnids)
    ]
    (folder / imagenet.TRAIN_TAR).write_bytes(tar_of(reversed(inner)))
    order = [wnids[place] for place in (4, 0, 8, 2, 6, 1, 3, 7, 5)]
    truth = [1 + place for place in (3, 3, 8, 0, 1, 2, 4, 5, 6, 7, 8, 0, 1, 2, 4, 5, 6, 7)]
    val = [(f"ILSVRC2012_val_{number:08d}.JPEG", data[36 + number]) for number in range(1, 19)]
    (folder / imagenet.VAL_TAR).write_bytes(tar_of(val))
    write_devkit(folder, devkit(order, truth), tar_of)
    return folder


def test_tars_are_what_torchvision_extracts_from_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import imagenet as reference

    tars = list_tree(root) or imagenet.list_tars(root)
    assert tars is not None
    for archive, (name, _) in reference.ARCHIVE_META.items():
        monkeypatch.setitem(reference.ARCHIVE_META, archive, (name, None))  # they have not the official MD5
    train, val = (reference.ImageNet(str(root), split=split) for split in ("train", "val"))
    tree = list_tree(root)
    assert tree is not None
    assert (len(tree.train_files), len(tree.test_files), len(tree.classes)) == (27, 18, 9)
    assert tree.fingerprint == tars.fingerprint
    assert tree.classes == tars.classes == tuple(train.wnids)
    for split, files, labels, other_files, other_labels in (
        (train, tars.train_files, tars.train_labels, tree.train_files, tree.train_labels),
        (val, tars.test_files, tars.test_labels, tree.test_files, tree.test_labels),
    ):
        assert files == other_files == tuple(str(Path(file).relative_to(root)) for file, _ in split.samples)
        assert labels.tolist() == other_labels.tolist() == split.targets
        for name in files:
            assert tars.read(name) == tree.read(name) == (root / name).read_bytes()
    assert tars.where(tars.test_files[0]) == f"{root / imagenet.VAL_TAR}: {tars.test_files[0]}"


def test_tars_are_a_dataset_of_word_net_ids_and_an_image_folder_too(root: Path) -> None:
    config = resolve(ImageNet(root=root, per_class=2))
    assert isinstance(config, ImageNet)
    assert (config.size, config.resize, config.images) == (224, 256, (18, 18))
    described = describe(config)
    assert described.classes == tuple(sorted(described.classes))
    assert described.classes[0].startswith("n0")
    assert (described.shape, described.train_counts, described.test_counts) == ((224, 224, 3), (2,) * 9, (2,) * 9)
    assert resolve(config) == config
    other = resolve(ImageFolder(name="imagenet", size=64, root=root))
    assert isinstance(other, ImageFolder)
    assert (other.resize, other.images, other.fingerprint) == (73, (27, 18), config.fingerprint)


def test_counts_are_no_part_of_the_identity(root: Path) -> None:
    config = resolve(ImageNet(root=root))
    assert isinstance(config, ImageNet)
    assert identity(config) == identity(ImageNet(fingerprint=config.fingerprint))


def test_a_tree_is_listed_once_a_process_and_must_be_the_resolved_one(root: Path) -> None:
    config = resolve(ImageNet(root=root))
    assert isinstance(config, ImageNet)
    assert tree_of(config) is tree_of(config)
    with pytest.raises(InputError, match=f"{root}: expected the image tree with the fingerprint 0000"):
        tree_of(config.model_copy(update={"fingerprint": "0" * 64}))


def without(name: str) -> Callable[[Path, Any], None]:
    return lambda root, tar_of: (root / name).unlink()


def cut(name: str) -> Callable[[Path, Any], None]:
    def change(root: Path, tar_of: Any) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:-20_000])

    return change


def relabel(wnids: list[str], truth: list[int]) -> Callable[[Path, Any], None]:
    return lambda root, tar_of: write_devkit(root, devkit(wnids, truth), tar_of)


def stray(root: Path, tar_of: Any) -> None:
    (root / imagenet.VAL_TAR).write_bytes(tar_of([("ILSVRC2012_test_00000001.JPEG", b"image")]))


def twice(root: Path, tar_of: Any) -> None:
    inner = tar_of([("n01629819_1.JPEG", b"a"), ("n01629819_1.JPEG", b"b")])
    (root / imagenet.TRAIN_TAR).write_bytes(tar_of([("n01629819.tar", inner)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(imagenet.TRAIN_TAR), f": holds .*; {imagenet.TRAIN_TAR} is missing"),
        (without(imagenet.VAL_TAR), f": holds .*; {imagenet.VAL_TAR} is missing"),
        (without(imagenet.DEVKIT), f": holds .*; {imagenet.DEVKIT} is missing"),
        (cut(imagenet.TRAIN_TAR), f"/{imagenet.TRAIN_TAR}: a tar that is cut short"),
        (cut(imagenet.VAL_TAR), f"/{imagenet.VAL_TAR}: a tar that is cut short"),
        (stray, f"/{imagenet.VAL_TAR}: expected the 18 images .* found 0 .*: ILSVRC2012_test_00000001.JPEG"),
        (twice, f"/{imagenet.TRAIN_TAR}: n01629819.tar: holds a file more than once"),
        (relabel(["n00000001", "n00000002"], [1, 2] * 9), "its images' classes are not the 9 classes"),
        (relabel(["n00000001"], [1]), "expected the 1 images .* found 1"),
        (relabel(["n00000001"], [7]), f"/{imagenet.DEVKIT}: not ImageNet's development kit .*KeyError: 7"),
    ],
)
def test_incomplete_or_damaged_tars_are_refused(
    root: Path, tar_of: Callable[..., bytes], change: Callable[[Path, Any], None], message: str
) -> None:
    assert imagenet.list_tars(root) is not None
    change(root, tar_of)
    with pytest.raises(InputError, match=f"{root}{message}|{root / imagenet.VAL_TAR}: {message}"):
        imagenet.list_tars(root)


@pytest.mark.parametrize("damaged", [b"", b"no gzip", None])
def test_a_damaged_development_kit_is_refused(root: Path, tar_of: Callable[..., bytes], damaged: bytes | None) -> None:
    if damaged is None:
        write_devkit(root, {DEVKIT_META: b"no matrix" * 100, DEVKIT_TRUTH: b"1\n"}, tar_of)
    else:
        (root / imagenet.DEVKIT).write_bytes(damaged)
    with pytest.raises(InputError, match=f"{root / imagenet.DEVKIT}: not ImageNet's development kit"):
        imagenet.list_tars(root)


def test_class_names_are_torchvisions_and_unique(imagenet_sample_folder: Path) -> None:
    from torchvision.models import ResNet18_Weights

    names = imagenet.class_names()
    assert list(names) == sorted(names)
    assert len(set(names.values())) == len(names) == 1000
    theirs = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    often = Counter(theirs)  # some versions of torchvision call two cranes and two maillots the same
    assert [
        name for name, other in zip(names.values(), theirs, strict=True) if name != other and often[other] == 1
    ] == []
    for folder in imagenet_sample_folder.iterdir():  # WNID/WNID_its_name.JPEG
        (file,) = folder.iterdir()
        assert file.stem == f"{folder.name}_{names[folder.name].replace(' ', '_')}"


@pytest.mark.parametrize("case", TABLES["witches-brew-table5"].cases, ids=lambda case: str(case.seed))
def test_the_paper_s_cases_have_the_paper_s_class_names(case: Any) -> None:
    names = tuple(imagenet.class_names().values())
    assert tuple(names[label] for label in draw_classes(case.seed, 1000)) == (case.target, case.intended)


def test_imagenet_can_be_planned_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWLINE_DATA", str(tmp_path))
    for config in (ImageNet(), ImageNet(root=tmp_path / "nowhere")):
        resolved = resolve(config, absent_ok=True)
        assert resolved == config.model_copy(update={"images": (1_281_167, 50_000)})
        described = describe(resolved, absent_ok=True)
        assert len(described.classes) == 1000
        assert described.shape == (224, 224, 3)
        assert (described.train_labels, described.test_labels) == (None, None)
        for cases in (PaperCases(table="witches-brew-table5"), RandomCases(count=1000), OutlierCases(count=50_000)):
            precheck(cases, described, 0.001)
        with pytest.raises(InputError, match="asks for 13000 poisons of class 'Labrador retriever', which has 1300"):
            precheck(PaperCases(table="witches-brew-table5"), described, 0.01)
        for absent in (resolve, describe):
            with pytest.raises(InputError, match=rf"does not hold imagenet. Expected .*{imagenet.TRAIN_TAR}"):
                absent(config)
    few = ImageNet(per_class=100, test_per_class=5)
    resolved = resolve(few, absent_ok=True)
    assert isinstance(resolved, ImageNet)
    assert resolved.images == (100_000, 5_000)
    assert describe(few, absent_ok=True).train_counts == (100,) * 1000
    stated = ExplicitCase(target_class="otter", intended_class="maillot tank suit", target_ids=(0,))
    precheck(ExplicitCases(cases=(stated,)), describe(few, absent_ok=True), 0.001)


def test_what_no_imagenet_can_have_is_refused_without_it(tmp_path: Path) -> None:
    for wrong, message in (
        (ImageNet(root=tmp_path, per_class=733), "per_class is 733, but a class of ImageNet has 732 .* at most 732"),
        (ImageNet(root=tmp_path, test_per_class=51), "test_per_class is 51, but class .* use at most 50"),
    ):
        with pytest.raises(InputError, match=message):
            resolve(wrong, absent_ok=True)
    (tmp_path / imagenet.TRAIN_TAR).touch()
    with pytest.raises(InputError, match="is missing"):
        resolve(ImageNet(root=tmp_path), absent_ok=True)
    with pytest.raises(InputError, match="does not hold tiny"):
        resolve(ImageFolder(name="tiny", size=8, root=tmp_path / "nowhere"), absent_ok=True)


def test_planning_imagenet_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import json, sys
from stages.data.dataset_config import ImageNet
from stages.data.datasets import describe, resolve
describe(resolve(ImageNet(root={str(tmp_path)!r}), absent_ok=True), absent_ok=True)
print(json.dumps(sorted({{'torch', 'torchvision', 'sklearn', 'scipy', 'pyarrow', 'PIL'}} & set(sys.modules))))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []
