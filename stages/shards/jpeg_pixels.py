"""The images of `.beton` files as `Pixels`: raw ones where they lie, JPEGs decoded when they are read."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.config import InputError
from stages.data.pixels import Pixels
from stages.shards import beton, ffcv_reader


class JpegPixels(Pixels):
    """Pixels some of which are JPEGs, decoded by FFCV's own decoder in the thread that reads them."""

    def __init__(
        self, addresses: np.ndarray, shape: tuple[int, int, int], owners: tuple[Any, ...], sizes: np.ndarray
    ) -> None:
        """addresses: int64 [N], of pixels, or of JPEGs.  sizes: int64 [N], bytes of the JPEG; 0 for pixels."""
        super().__init__(addresses, shape, owners)
        self._sizes = sizes

    def rows(self, rows: np.ndarray) -> Pixels:
        """The images of these rows (int64 [n]), in this order, where they lie."""
        return JpegPixels(self._addresses[rows], self.shape[1:], self._owners, self._sizes[rows])

    def _located(self, rows: np.ndarray) -> tuple[np.ndarray, Any]:
        addresses, sizes = self._addresses[rows], self._sizes[rows]
        encoded = np.flatnonzero(sizes)
        decoded = np.empty((len(encoded), *self.shape[1:]), np.uint8)
        sources = list(map(_bytes_at, addresses[encoded].tolist(), sizes[encoded].tolist()))
        ffcv_reader.decode_jpegs(sources, decoded, rows[encoded].tolist())
        addresses[encoded] = decoded.ctypes.data + np.arange(len(encoded)) * decoded.strides[0]
        return addresses, decoded

    def _with(self, addresses: np.ndarray, rows: np.ndarray, over: Pixels) -> Pixels:
        sizes = self._sizes.copy()
        sizes[rows] = 0
        return JpegPixels(addresses, self.shape[1:], (*self._owners, *over._owners), sizes)

    def _join(self, parts: Sequence[Pixels]) -> Pixels:
        plain = super()._join(parts)
        sizes = [part._sizes if isinstance(part, JpegPixels) else np.zeros(len(part), np.int64) for part in parts]
        return JpegPixels(plain._addresses, plain.shape[1:], plain._owners, np.concatenate(sizes))


def pixels_of_beton(file: beton.Beton) -> Pixels:
    """The file's images. Raises InputError for images of several sizes, and for JPEGs where FFCV is not installed."""
    shapes = np.unique(np.stack([file.heights, file.widths]), axis=1)
    if shapes.shape[1] != 1:
        raise InputError(f"{file.file}: has images of {shapes.shape[1]} sizes; expected one size")
    addresses = file.data.ctypes.data + file.pointers
    shape = (int(shapes[0, 0]), int(shapes[1, 0]), 3)
    if not file.jpeg.any():
        return Pixels(addresses, shape, (file.data,))
    ffcv_reader.require_ffcv()
    return JpegPixels(addresses, shape, (file.data,), np.where(file.jpeg, file.sizes, 0))


def _bytes_at(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
