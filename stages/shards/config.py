"""How base shards are written: the experiment's choice. No pyarrow here, as experiments are planned without it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.config import Config, InputError

Split = Literal["train", "test"]

SPLITS: tuple[Split, ...] = ("train", "test")


class Shards(Config):
    """The form of a dataset's base shards. Poisons are always kept losslessly, whatever the form of the base."""

    format: Literal["arrow", "beton"] = "arrow"
    """Arrow IPC files of raw images, or FFCV's .beton files, which hold colour images only."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    """JPEG quality of clean images, in .beton files only; null keeps them raw."""
    images_per_shard: Annotated[int, Field(ge=1)] = 4096
    """Of an image tree: each shard is a step of its own. It needs this many images' memory, and that of the tree's
    listing: half a GB for ImageNet."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.jpeg_quality is not None and self.format == "arrow":
            raise ValueError(
                f"jpeg_quality is {self.jpeg_quality}, but Arrow shards are raw; leave it out, or set format: beton"
            )
        return self

    def of(self, images: int) -> int:
        """How many shards so many images make."""
        return -(-images // self.images_per_shard)

    def rows(self, index: int, images: int) -> range:
        """The images of shard `index` of a split with so many."""
        return range(index * self.images_per_shard, min((index + 1) * self.images_per_shard, images))


def precheck_shards(shards: Shards, name: str, shape: tuple[int, int, int]) -> None:
    """Raises InputError where images of this shape (H, W, C) cannot be kept so, or FFCV is needed and is missing."""
    if shards.format == "beton" and shape[2] != 3:
        raise InputError(
            f"shards.format is beton, and the images of {name} have {shape[2]} channel: FFCV's files hold colour "
            "images only; set shards.format to arrow"
        )
    if shards.jpeg_quality is not None:
        from stages.shards.ffcv_reader import require_ffcv

        require_ffcv()
