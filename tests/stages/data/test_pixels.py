"""Images by address against plain numpy on arrays."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.data.images import ImageSet
from stages.data.pixels import Crops, Pixels, joined, pixels_of


def some_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 70), st.sampled_from([1, 3])),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1),
)
def test_a_crop_is_what_numpy_cuts_out(shape: tuple[int, int, int], pad: int, seed: int) -> None:
    images, rng = some_images(5, shape, seed), np.random.default_rng(seed)
    rows, (top, left) = rng.integers(0, 5, 9), rng.integers(0, 2 * pad + 1, (2, 9))
    crops = Crops(top, left, rng.random(9) < 0.5, pad)
    out = np.full((9, *shape), 77, np.uint8)
    pixels_of(images).read(rows, out, crops)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for row, y, x, flip, found in zip(rows, top, left, crops.flip, out, strict=True):
        cut = padded[row, y : y + shape[0], x : x + shape[1]]
        assert np.array_equal(found, cut[:, ::-1] if flip else cut)


def test_the_last_image_is_read_to_its_last_byte_and_no_further() -> None:
    """The memory behind the images belongs to nobody: reading it is a crash."""
    import mmap

    shape = (8, 512, 3)
    memory = mmap.mmap(-1, 3 * 4096 + mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    images = whole[: 8 * 512 * 3].reshape(1, *shape)
    images[:] = some_images(1, shape)
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    assert libc.mprotect(__import__("ctypes").c_void_p(whole.ctypes.data + 3 * 4096), mmap.PAGESIZE, 0) == 0
    out = np.empty((1, *shape), np.uint8)
    zero = np.zeros(1, np.int64)
    pixels_of(images).read(zero, out, Crops(zero, zero, np.array([True]), 0))
    assert np.array_equal(out, images[:, :, ::-1])


def test_pixels_are_indexed_like_an_array() -> None:
    images = some_images(12, (4, 5, 3))
    pixels = pixels_of(images)
    assert (len(pixels), pixels.shape, pixels.size, pixels.ndim) == (12, images.shape, images.size, 4)
    for index in (0, -1, slice(2, 9, 3), slice(5, 5), [1, 7, 1], np.array([3]), np.arange(12) % 2 == 0):
        assert np.array_equal(pixels[index], images[index])
    assert np.array_equal(np.asarray(pixels), images)
    assert all(np.array_equal(one, other) for one, other in zip(pixels, images, strict=True))
    with pytest.raises(IndexError):
        pixels[12]


@pytest.mark.parametrize("cut", [np.s_[::2], np.s_[::-1], np.s_[:, ::2], np.s_[:, :, ::-1], np.s_[3:3]])
def test_images_in_pieces_are_taken(cut: tuple[slice, ...]) -> None:
    images = some_images(9, (6, 6, 3))[cut]
    assert np.array_equal(np.asarray(pixels_of(images)), images)


def test_parts_join_and_keep_their_memory() -> None:
    whole = some_images(30, (5, 5, 3))
    pixels = joined([pixels_of(whole[a:b].copy()) for a, b in ((0, 11), (11, 12), (12, 30))])
    gc.collect()
    assert np.array_equal(np.asarray(pixels), whole)


def test_an_overlay_replaces_and_leaves_the_base() -> None:
    whole, poisons = some_images(20, (5, 5, 3)), some_images(3, (5, 5, 3), 1)
    images = ImageSet(whole, np.zeros(20, np.int64), np.arange(20) + 100)
    over = images.overlaid(np.array([119, 100, 107]), poisons.copy())
    expected = whole.copy()
    expected[[19, 0, 7]] = poisons
    gc.collect()
    assert isinstance(over.images, Pixels)
    assert np.array_equal(np.asarray(over.images), expected) and not np.array_equal(whole, expected)
    assert np.array_equal(over.of([119, 103]).images, expected[[19, 3]])
    with pytest.raises(KeyError, match="99"):
        over.of([99])
    with pytest.raises(ValueError, match="do not replace"):
        images.overlaid(np.array([100, 101]), poisons)


def test_what_is_not_there_or_does_not_fit_is_not_read() -> None:
    pixels = pixels_of(some_images(4, (5, 5, 3)))
    out, one = np.empty((1, 5, 5, 3), np.uint8), np.ones(1, np.int64)
    for row in (-1, 4):
        with pytest.raises(IndexError):
            pixels.read(one * row, out)
    for wrong in (out[0], np.empty((2, 5, 5, 3), np.uint8), out.astype(np.int8), np.empty((1, 5, 3, 5), np.uint8)):
        with pytest.raises(ValueError, match="out is"):
            pixels.read(one, wrong)
    for crops in (Crops(one, one, one > 0, 0), Crops(one, -one, one > 0, 4), Crops(one[:0], one, one > 0, 4)):
        with pytest.raises(ValueError, match="crops begin"):
            pixels.read(one, out, crops)
    with pytest.raises(ValueError, match="no images"):
        pixels_of(np.zeros((2, 5, 5, 3), np.int16))
