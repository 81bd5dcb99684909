"""The one pass over memory that training images take: gathered, cropped out of a black border, and mirrored.

Compiled by numba, once a machine (the result is kept beside this file), and free of the interpreter's lock, so that
threads share a batch. Addresses are raw: `stages.data.pixels` is the only caller, and it alone vouches for them.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_BYTE = ir.IntType(8)


def _pointer(builder: Any, address: Any, pointed: Any = _BYTE) -> Any:
    return builder.inttoptr(address, pointed.as_pointer())


@intrinsic
def _copy(typing: Any, target: Any, source: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, origin, length = args
        cgutils.raw_memcpy(builder, _pointer(builder, to), _pointer(builder, origin), length, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def _clear(typing: Any, target: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, length = args
        cgutils.memset(builder, _pointer(builder, to), length, 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _move_byte(typing: Any, target: Any, source: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(builder.load(_pointer(builder, args[1])), _pointer(builder, args[0]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


def _mirror_at_once(pixels: int) -> Any:
    """Makes the reversal of so many RGB pixels in one register of 3·pixels + 1 bytes, a power of two: bytes are read
    from one before the pixels, and the last byte that is written is meaningless."""
    vector = ir.VectorType(_BYTE, 3 * pixels + 1)
    order = [3 * pixel + 1 + channel for pixel in reversed(range(pixels)) for channel in range(3)]

    @intrinsic
    def mirror(typing: Any, target: Any, source: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to, origin = (_pointer(builder, address, vector) for address in args)
            found = builder.load(origin, align=1)
            places = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [*order, 0])
            builder.store(builder.shuffle_vector(found, found, places), to, align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return mirror


_WIDE, _NARROW = 21, 5
_mirror_wide, _mirror_narrow = _mirror_at_once(_WIDE), _mirror_at_once(_NARROW)


@njit(nogil=True, cache=True)
def _mirror(target: int, source: int, pixels: int, channels: int) -> None:
    """A row of pixels, the last first."""
    done = 0
    if channels == 3:
        # More pixels are left than are taken, so neither the byte before nor the byte after lies outside the row.
        while pixels - done > _WIDE:
            _mirror_wide(target + 3 * done, source + 3 * (pixels - done - _WIDE) - 1)
            done += _WIDE
        while pixels - done > _NARROW:
            _mirror_narrow(target + 3 * done, source + 3 * (pixels - done - _NARROW) - 1)
            done += _NARROW
    while done < pixels:
        for channel in range(channels):
            _move_byte(target + done * channels + channel, source + (pixels - 1 - done) * channels + channel)
        done += 1


@njit(nogil=True, cache=True)
def crop(
    addresses: np.ndarray,
    shape: tuple[int, int, int],
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
    pad: int,
    target: int,
) -> None:
    """Fill the memory at `target`, uint8 [B, H, W, C], with crops of the images at `addresses` (int64 [B]).

    shape: (H, W, C).  top, left: int64 [B], where the crop begins in the image with `pad` black pixels around it, both
    in [0, 2·pad].  flip: bool [B], mirror the crop left to right.
    """
    height, width, channels = shape
    row = width * channels
    for i in range(len(addresses)):
        first, last = max(0, pad - left[i]), min(width, width + pad - left[i])
        pixels = last - first
        black = (width - last if flip[i] else first) * channels
        for y in range(height):
            to = target + (i * height + y) * row
            source_y = top[i] + y - pad
            if source_y < 0 or source_y >= height or pixels <= 0:
                _clear(to, row)
                continue
            source = addresses[i] + source_y * row + (first + left[i] - pad) * channels
            _clear(to, black)
            if flip[i]:
                _mirror(to + black, source, pixels, channels)
            else:
                _copy(to + black, source, pixels * channels)
            end = black + pixels * channels
            _clear(to + end, row - end)
