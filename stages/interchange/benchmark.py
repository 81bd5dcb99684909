"""The three pickles of the poisoning benchmark (Schwarzschild et al. 2021), as its `poison_test.py` reads them.

`poisons.pickle`: a list of (Pillow image, label).  `base_indices.pickle`: the train ids they replace, in the same
order.  `target.pickle`: (Pillow image, true label) of the one target (its how_to.md). Ids are those of the dataset that
was poisoned: only all of CIFAR-10 or Tiny ImageNet in its own order has the benchmark's.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from stages.config import InputError
from stages.data import pickles
from stages.interchange.content import Content, Format, Outside, Split, Tell, Way

POISONS, BASES, TARGET = "poisons.pickle", "base_indices.pickle", "target.pickle"
PROTOCOL = 4
"""Of 2019, as Python 3.4 and later read it."""


def refuse(content: Content) -> None:
    """Raises InputError for several targets."""
    count = len(content.case.target_ids)
    if count != 1:
        raise InputError(
            f"format benchmark: the case has {count} targets, and target.pickle holds one; export a case with one "
            "target, or use another format"
        )


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write the three pickles."""
    from PIL import Image

    def picture(pixels: np.ndarray) -> Image.Image:
        return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])

    poisons, case = content.poisons, content.case
    pictures = [picture(image) for image in poisons.images]
    (target,) = content.dataset.test.images[np.array(case.target_ids)]
    held = {
        POISONS: list(zip(pictures, poisons.labels.tolist(), strict=True)),
        BASES: poisons.ids.tolist(),
        TARGET: (picture(target), case.target_class),
    }
    for name, value in held.items():
        (folder / name).write_bytes(pickle.dumps(value, PROTOCOL))
    tell(len(poisons))


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of some poisons; raises InputError where the ids or the target are not what was written."""
    found = read(folder, content.dataset.info.shape)
    assert found.labels is not None and found.target is not None
    (target,) = content.dataset.test.images[np.array(content.case.target_ids)]
    if not np.array_equal(found.ids, content.poisons.ids):
        raise InputError(f"{folder / BASES}: does not read back as it was written")
    if not np.array_equal(found.target[0], target) or found.target[1] != content.case.target_class:
        raise InputError(f"{folder / TARGET}: does not read back as it was written")
    return found.images[rows], found.labels[rows]


def files(folder: Path) -> list[Path]:
    """The three pickles. Raises InputError where one is not there."""
    found = [folder / name for name in (BASES, POISONS, TARGET)]
    for file in found:
        if not file.is_file():
            raise InputError(f"{file}: there is no such file; expected the benchmark's {BASES}, {POISONS} and {TARGET}")
    return found


def read(folder: Path, shape: tuple[int, int, int]) -> Outside:
    """What the three pickles hold; nothing of theirs is run. Raises InputError for one that is not of this form."""
    bases, poisons, target = files(folder)
    ids = _load(bases)
    ids = ids.values if isinstance(ids, pickles.Array) else ids
    if not isinstance(ids, list | tuple) or not ids or any(type(i) is not int for i in ids):
        raise InputError(f"{bases}: holds {_described(ids)}; expected train ids")
    if not -(2**63) <= min(ids) <= max(ids) < 2**63:
        raise InputError(f"{bases}: holds {max(ids, key=abs)}, which is no train id")
    pairs = _load(poisons)
    if not isinstance(pairs, list | tuple) or len(pairs) != len(ids):
        raise InputError(f"{poisons}: holds {_described(pairs)}; expected {len(ids)} (image, label), one a base id")
    images = np.empty((len(ids), *shape), np.uint8)
    labels = np.empty(len(ids), np.int64)
    for row, pair in enumerate(pairs):
        images[row], labels[row] = _pair(pair, shape, f"{poisons}: poison {row}")
    held = _load(target)
    if isinstance(held, pickles.Picture):  # without its label, as the benchmark's own first examples are
        return Outside(np.array(ids, np.int64), images, labels, (_pixels(held, shape, str(target)), None))
    return Outside(np.array(ids, np.int64), images, labels, _pair(held, shape, str(target)))


def _load(file: Path) -> Any:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    return pickles.load(data, file, pickles.INTEGERS | pickles.IMAGES, "integers and Pillow images")


def _pair(found: Any, shape: tuple[int, int, int], where: str) -> tuple[np.ndarray, int]:
    if isinstance(found, list | tuple) and len(found) == 4:
        raise InputError(f"{where}: has a patch, as a backdoor's target does; only triggerless attacks are evaluated")
    if not isinstance(found, list | tuple) or len(found) != 2 or type(found[1]) is not int:
        raise InputError(f"{where} is {_described(found)}, expected (image, label)")
    picture, label = found
    if not 0 <= label < 2**63:
        raise InputError(f"{where} has the label {label}")
    return _pixels(picture, shape, where), label


def _pixels(found: Any, shape: tuple[int, int, int], where: str) -> np.ndarray:
    if not isinstance(found, pickles.Picture) or found.shape != shape:
        other = f"of the shape {found.shape}" if isinstance(found, pickles.Picture) else f"that is {_described(found)}"
        raise InputError(f"{where} has an image {other}, expected the shape {shape}")
    return found.pixels()


def _described(found: Any) -> str:
    return f"{len(found)} things" if isinstance(found, list | tuple) else f"a {type(found).__name__}"


FORMAT = Format(write, read_back, refuse, only_poisons=True, back=Way(files, read))
