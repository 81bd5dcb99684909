"""Stage `shard`: one shard of an image tree's images, decoded, resized and cropped; a killed one costs itself alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.config import Config, InputError
from stages.data.dataset_config import FileConfig
from stages.data.datasets import tree_of, used, whole_of
from stages.shards.config import Shards, Split
from stages.stage import Context, Metrics

if TYPE_CHECKING:
    import numpy as np

    from stages.data.image_tree import Tree

VERSION = 1


class Params(Config):
    """Which shard of what. The images are those of rows `index·images_per_shard` on, with the subset taken."""

    dataset: Annotated[FileConfig, Field(discriminator="kind")]
    """As `resolve` completes it."""
    shards: Shards
    split: Split
    index: Annotated[int, Field(ge=0)]


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes the shard and `shard.json`: its file and images per class, the classes and shape, and how often each grey
    level occurs, per channel.

    Raises InputError where the tree is not the one that was planned, and one that names the files that are no images,
    twenty at most, and says how many they are.
    """
    import numpy as np

    from stages.data.decode import Form, decode
    from stages.data.image_tree import some
    from stages.data.images import ImageSet
    from stages.data.sources import channel_counts
    from stages.shards import base_shards

    tree, names, labels = _listing(params.dataset, params.split)
    whole = whole_of(params.dataset, tree)
    rows = params.shards.rows(params.index, len(names))
    if not rows:
        of = params.shards.of(len(names))
        raise InputError(f"index is {params.index}, but the {params.split} split has shards 0 to {of - 1}")
    chosen = [names[row] for row in rows]
    form = Form(whole.shape, getattr(params.dataset, "resize", None))
    images = np.empty((len(chosen), *form.shape), np.uint8)
    cpus = max(1, int(ctx.runtime.cpus))
    if faults := decode(tree, chosen, form, cpus, images, lambda done: ctx.progress(done, len(chosen))):
        raise InputError(
            f"{tree.root}: {len(faults)} of {len(chosen)} images cannot be used:\n{some(faults, between=chr(10))}\n"
            "Replace these files or remove them (either changes the fingerprint), then plan the experiment again"
        )
    part = base_shards.write_part(
        out,
        params.split,
        params.index,
        params.shards.of(len(names)),
        ImageSet(images, labels[rows.start : rows.stop], np.arange(rows.start, rows.stop, dtype=np.int64)),
        params.shards,
        len(whole.classes),
        cpus,
    )
    about: dict[str, Any] = {"split": params.split, "index": params.index, "shards": params.shards.of(len(names))}
    about |= {"classes": whole.classes, "shape": whole.shape, "levels": channel_counts(images).tolist()}
    (out / "shard.json").write_text(json.dumps({**part._asdict(), **about}))
    return {"images": len(chosen), "bytes": (out / part.file).stat().st_size}


def _listing(config: FileConfig, split: Split) -> "tuple[Tree, list[str], np.ndarray]":
    """The tree, and the names and labels of a split with its subset taken."""
    tree = tree_of(config)
    files, labels = (tree.train_files, tree.train_labels) if split == "train" else (tree.test_files, tree.test_labels)
    rows, renumbered = used(config, tree, labels, split)
    return tree, [files[row] for row in rows], renumbered
