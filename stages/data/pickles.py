"""Other people's pickles, read without running anything of theirs.

A pickle can run anything, so these are read by an unpickler that knows a few names and gives none of them its real
code: small stand-ins for integers, arrays of integers and Pillow's images take their place. Any other name is refused.
"""

import io
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.config import InputError


def load(data: bytes, file: Path, known: Mapping[tuple[str, str], Any], expected: str) -> Any:
    """What a pickle holds, with a stand-in for each (module, name) of `known`.

    file, expected: for messages. Raises InputError for any other name, for numbers that are no integers, and for a
    pickle that is cut short or none.
    """
    try:
        return _Unpickler(data, known).load()
    except RefusedError as error:
        raise InputError(f"{file}: {error}; expected only {expected}, so it was not read") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        MemoryError,  # a length in it that is no length
        RecursionError,
    ) as error:
        raise InputError(f"{file}: not a whole pickle of {expected} ({type(error).__name__}: {error})") from error


class RefusedError(Exception):
    """A pickle names what it has no need of."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, known: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._known = known

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise RefusedError(f"asks for {module}.{name}")
        return self._known[module, name]


class _Fixed(type):
    """A class that a pickle cannot change: setting what a class has is all that is left for one to do."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(f"{cls.__name__}.{name} is not to be set")


class _Integer(metaclass=_Fixed):
    """Stands in for numpy.dtype; only integers are known."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4"):
            raise RefusedError(f"holds numbers of the type {code!r}")
        self.numpy = np.dtype("<" + code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise RefusedError(f"holds numbers in the byte order {state[1]!r}")


class Array(metaclass=_Fixed):
    """Stands in for a numpy array of integers, in one dimension."""

    values: tuple[int, ...] = ()

    def __init__(self, kind: object, shape: tuple[int, ...], code: bytes) -> None:
        """Empty, as numpy's own begins."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Integer, bool, bytes]) -> None:
        _, shape, kind, _, data = state
        if len(shape) != 1 or len(data) != math.prod(shape) * kind.numpy.itemsize:
            raise ValueError(f"an array of shape {shape} in {len(data)} bytes")
        self.values = tuple(np.frombuffer(data, kind.numpy).tolist())


class _FromBuffer(metaclass=_Fixed):
    """Stands in for the maker of arrays that numpy's pickles of protocol 5 name."""

    def __new__(cls, data: bytes, kind: _Integer, shape: tuple[int, ...], order: str) -> Any:
        array = Array(None, shape, b"")
        array.__setstate__((1, shape, kind, False, data))
        return array


class _Scalar(metaclass=_Fixed):
    """Stands in for numpy's maker of single numbers; makes plain ints."""

    def __new__(cls, kind: _Integer, data: bytes) -> Any:
        (value,) = np.frombuffer(data, kind.numpy).tolist()
        return value


class Picture(metaclass=_Fixed):
    """Stands in for Pillow's Image. shape: (height, width, channels).  data: its pixels, row by row."""

    shape: tuple[int, int, int] = (0, 0, 0)
    data: bytes = b""

    def __setstate__(self, state: list[Any]) -> None:
        _, mode, (width, height), _, self.data = state[:5]
        if mode not in ("RGB", "L"):
            raise RefusedError(f"holds an image of mode {mode!r}")
        self.shape = (height, width, 3 if mode == "RGB" else 1)
        whole = all(type(side) is int and side > 0 for side in self.shape)
        if not whole or type(self.data) is not bytes or len(self.data) != math.prod(self.shape):
            raise ValueError(f"an image of the shape {self.shape} that has other data")

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, C], read-only."""
        return np.frombuffer(self.data, np.uint8).reshape(self.shape)


INTEGERS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Integer,
    ("numpy", "ndarray"): object,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _FromBuffer),
        )
    },
}
"""numpy's integers and arrays of integers."""

IMAGES: dict[tuple[str, str], Any] = {("PIL.Image", "Image"): Picture}
"""Pillow's images."""
