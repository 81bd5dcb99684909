"""Stand-ins hold what numpy and Pillow would, and nothing that is no image."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.config import InputError
from stages.data import pickles

FILE = Path("theirs.pickle")
KNOWN = pickles.INTEGERS | pickles.IMAGES


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_images_and_integers_are_what_the_plain_unpickler_gives(protocol: int) -> None:
    rng = np.random.default_rng(0)
    colour, grey = rng.integers(0, 256, (4, 7, 3), np.uint8), rng.integers(0, 256, (4, 7), np.uint8)
    held = [Image.fromarray(colour), Image.fromarray(grey), np.array([5, -260, 2**40]), np.uint8(7), [1, (2,)]]
    found = pickles.load(pickle.dumps(held, protocol), FILE, KNOWN, "these")
    assert np.array_equal(found[0].pixels(), colour)
    assert np.array_equal(found[1].pixels(), grey[..., np.newaxis])
    assert (found[2].values, found[3:]) == ((5, -260, 2**40), [7, [1, (2,)]])


def test_an_image_is_refused_where_only_integers_are_known() -> None:
    data = pickle.dumps(Image.new("L", (2, 2)))
    with pytest.raises(InputError, match=r"theirs\.pickle: asks for PIL\.Image\.Image; expected only integers"):
        pickles.load(data, FILE, pickles.INTEGERS, "integers")


class _Forged:
    """Pickles as a Pillow image with any state."""

    def __init__(self, *state: Any) -> None:
        self.state = list(state)

    def __reduce__(self) -> Any:
        return Image.Image, (), self.state


@pytest.mark.parametrize(
    "state",
    [
        ({}, "RGB", (2, 2), None, bytes(11)),
        ({}, "RGB", (-2, -2), None, bytes(12)),
        ({}, "L", (0, 0), None, b""),
        ({}, "L", (2, 2), None, "text"),
        ({}, "L", (2.0, 2), None, bytes(4)),
        ({}, "L", ("ab", 2), None, bytes(4)),
        ({}, "CMYK", (2, 2), None, bytes(16)),
        ({}, ["L"], (2, 2), None, bytes(4)),
        ({}, "L"),
    ],
)
def test_an_image_whose_state_is_no_image_s_is_refused(state: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match=r"theirs\.pickle"):
        pickles.load(pickle.dumps(_Forged(*state)), FILE, KNOWN, "these")


def test_a_pickle_cannot_change_the_stand_ins() -> None:
    """BUILD sets attributes of whatever is on the stack, a class as well."""
    hostile = b"cnumpy._core.multiarray\nscalar\nN}V__new__\ncnumpy\nndarray\ns\x86b."
    with pytest.raises(InputError, match=r"not a whole pickle.*__new__ is not to be set"):
        pickles.load(hostile, FILE, KNOWN, "these")
    assert pickles.load(pickle.dumps(np.int64(7)), FILE, KNOWN, "these") == 7


def test_lists_in_lists_without_end_are_no_crash() -> None:
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    found = pickles.load(deep, FILE, KNOWN, "these")
    while found:  # unwound by hand: to free it all at once would be as deep
        (found,) = found
