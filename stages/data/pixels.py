"""Images that lie wherever they lie: in the memory maps of many shards, with poisons laid over some of them.

An image is known by its address, so a dataset of any size and any number of files is one array of addresses. Replacing
P images costs P addresses; reading a batch is one pass over its memory.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Crops:
    """Where each image of a batch is cut out: of itself with `pad` black pixels around it.

    top, left: int64 [B], in [0, 2·pad].  flip: bool [B], mirror left to right after the cut.
    """

    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray
    pad: int

    def __getitem__(self, part: slice) -> "Crops":
        """Those of a part of the batch."""
        return Crops(self.top[part], self.left[part], self.flip[part], self.pad)


class Pixels:
    """uint8 [N, H, W, C], read-only and never copied as a whole unless `np.asarray` asks for it.

    Takes an integer, a slice or integers as an index, as an array does along its first axis, and gives arrays.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, addresses: np.ndarray, shape: tuple[int, int, int], owners: tuple[Any, ...]) -> None:
        """addresses: int64 [N], where each image of `shape` (H, W, C) begins, in memory that `owners` keep alive."""
        self._addresses, self._owners = addresses, owners
        self.shape = (len(addresses), *shape)

    @property
    def size(self) -> int:
        """How many bytes all images have."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._addresses)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self._rows(index)
        found = np.empty((rows.size, *self.shape[1:]), np.uint8)
        self.read(rows.reshape(-1), found)
        return found.reshape(*rows.shape, *self.shape[1:])

    def _rows(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"image {index} of {len(self)}")
            return np.array(index % len(self))
        return np.arange(len(self))[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("these images lie apart, so an array of them is a copy")
        return np.asarray(self[:], dtype=dtype)

    def read(self, rows: np.ndarray, out: np.ndarray, crops: Crops | None = None) -> None:
        """Fill `out`, uint8 [B, H, W, C] in one piece, with the images of `rows` (int64 [B]), cut out if asked for.

        Several threads may read at once. Raises IndexError for a row that is not there.
        """
        from stages.data.crop_kernel import crop

        if out.shape != (len(rows), *self.shape[1:]) or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}, expected uint8 {(len(rows), *self.shape[1:])}")
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows from {rows.min()} to {rows.max()} of {len(self)} images")
        if crops is None:
            zeros = np.zeros(len(rows), np.int64)
            crops = Crops(zeros, zeros, zeros.astype(bool), 0)
        for offsets in (crops.top, crops.left):
            if offsets.shape != (len(rows),) or (
                len(rows) and not 0 <= offsets.min() <= offsets.max() <= 2 * crops.pad
            ):
                raise ValueError(f"crops begin outside 0 to {2 * crops.pad}, or are not one an image")
        addresses, keep = self._located(rows)
        crop(addresses, self.shape[1:], crops.top, crops.left, crops.flip, crops.pad, out.ctypes.data)
        del keep

    def rows(self, rows: np.ndarray) -> "Pixels":
        """The images of these rows (int64 [n]), in this order, where they lie."""
        return Pixels(self._addresses[rows], self.shape[1:], self._owners)

    def overlaid(self, rows: np.ndarray, images: np.ndarray) -> "Pixels":
        """The same images but for those of `rows` (int64 [P], distinct), which are `images` (uint8 [P, H, W, C])."""
        if images.shape != (len(rows), *self.shape[1:]):
            raise ValueError(f"{images.shape} do not replace {len(rows)} images of {self.shape[1:]}")
        over = pixels_of(images)
        addresses = self._addresses.copy()
        addresses[rows] = over._addresses
        return self._with(addresses, rows, over)

    def _located(self, rows: np.ndarray) -> tuple[np.ndarray, Any]:
        """The addresses of the rows' pixels, and what must be kept until they are read."""
        return self._addresses[rows], self._owners

    def _with(self, addresses: np.ndarray, rows: np.ndarray, over: "Pixels") -> "Pixels":
        return Pixels(addresses, self.shape[1:], (*self._owners, *over._owners))

    def _join(self, parts: "Sequence[Pixels]") -> "Pixels":
        owners = tuple(owner for part in parts for owner in part._owners)
        return Pixels(np.concatenate([part._addresses for part in parts]), self.shape[1:], owners)


Images = np.ndarray | Pixels
"""uint8 [N, H, W, C]: what `Pixels` and arrays have in common is what may be done with images."""


def pixels_of(images: Images) -> Pixels:
    """Images as `Pixels`; an array is not copied unless an image of it is in pieces."""
    if isinstance(images, Pixels):
        return images
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"{images.dtype} {images.shape} are no images, uint8 [N, H, W, C]")
    whole = images if not len(images) or images[0].flags.c_contiguous else np.ascontiguousarray(images)
    addresses = whole.ctypes.data + np.arange(len(whole), dtype=np.int64) * whole.strides[0]
    return Pixels(addresses, whole.shape[1:], (whole,))


def joined(parts: Sequence[Pixels]) -> Pixels:
    """Several sets of images of one shape as one, in order."""
    # Plain pixels know nothing of JPEGs, so where there are any, those who do join them.
    return next((part for part in parts if type(part) is not Pixels), parts[0])._join(parts)


class Readers:
    """Threads that share the reading of a batch; they end with the object."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def start(self, pixels: Pixels, rows: np.ndarray, out: np.ndarray, crops: Crops) -> Callable[[], None]:
        """Begin to fill `out` as `Pixels.read` does; what is returned waits until it is full."""
        bounds = np.linspace(0, len(rows), self._threads + 1, dtype=int).tolist()
        parts = [slice(*pair) for pair in pairwise(bounds) if pair[0] < pair[1]]
        tasks = [self._pool.submit(pixels.read, rows[part], out[part], crops[part]) for part in parts]

        def wait() -> None:
            for task in tasks:
                task.result()

        return wait
