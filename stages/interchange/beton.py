"""FFCV's `.beton` files: a copy of the base's, patched at the poisons, where the base is of that format already."""

from pathlib import Path

import numpy as np

from stages.config import InputError
from stages.interchange.content import Content, Format, Rows, Split, Tell


def refuse(content: Content) -> None:
    """Raises InputError for images that are not colour, and where FFCV, which reads the file back, is not installed."""
    from stages.shards.ffcv_reader import require_ffcv

    channels = content.dataset.info.shape[2]
    if channels != 3:
        raise InputError(
            f"--format beton: FFCV's files hold colour images, and {content.dataset.info.name} has {channels} channel; "
            "use image-folder, parquet or arrow"
        )
    require_ffcv()


def write(content: Content, folder: Path, tell: Tell) -> None:
    """Write `train.beton` and `test.beton`, with fields `image` and `label`; poisons are raw in a base of JPEGs too."""
    for split, rows in content.splits.items():
        file, shards = folder / f"{split}.beton", content.shards.get(split, ())
        if not content.only_poisons and shards and all(shard.suffix == ".beton" for shard in shards):
            _patched_copy(shards, file, rows)
            tell(len(rows))
        else:
            _written(rows, file, tell)


def _patched_copy(shards: tuple[Path, ...], file: Path, rows: Rows) -> None:
    from stages.shards.beton_patch import join, patch
    from stages.shards.kernel_copy import clone

    if len(shards) == 1:
        clone(shards[0], file)
    else:
        join(shards, file)
    if (poisons := np.flatnonzero(rows.poison)).size:
        patch(file, poisons, rows.at(poisons).images)


def _written(rows: Rows, file: Path, tell: Tell) -> None:
    from stages.shards.beton import Writer

    with Writer(file, len(rows)) as writer:
        for batch in rows.batches():
            for image, label in zip(batch.images, batch.labels.tolist(), strict=True):
                writer.add(image, label)
            tell(len(batch.ids))


def read_back(content: Content, folder: Path, split: Split, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Through FFCV's own loader, in a process of its own."""
    from stages.shards import ffcv_reader

    return ffcv_reader.read_back(folder / f"{split}.beton", rows)


FORMAT = Format(write=write, read_back=read_back, refuse=refuse, reads_at_once=True)
