"""The fixed setups of the poisoning benchmark (Schwarzschild et al. 2021, arXiv 2006.12557), read from its pickles.

A pickle can run anything, so these are read by an unpickler that knows four names, numpy's for integers and integer
arrays, and gives none of them numpy's own code: small stand-ins take their place. Any other name is refused.
"""

import hashlib
import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.config import InputError


@dataclass(frozen=True)
class Setup:
    """One setup: the target's class and test id, the poisons' class and their train ids (canonical CIFAR-10 order)."""

    target_class: int
    target_id: int
    base_class: int
    base_ids: tuple[int, ...]


def read_setups(file: Path, sha256: str | None = None) -> tuple[Setup, ...]:
    """All setups of a benchmark file, in its order.

    Raises InputError that names the file where it is missing, has another sha256 than the one given, names anything but
    integers and integer arrays, or is not a list of setups.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give the benchmark's setups pickle") from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and sha256 != found:
        raise InputError(f"{file}: its sha256 is {found}, expected {sha256}; give the right file, or its sha256")
    try:
        setups = _IntegersOnly(io.BytesIO(data)).load()
    except _RefusedError as error:
        raise InputError(f"{file}: {error}; expected only integers and integer arrays, so it was not read") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ) as error:
        raise InputError(f"{file}: not a whole pickle of the benchmark ({type(error).__name__}: {error})") from error
    if not isinstance(setups, list) or not setups:
        raise InputError(f"{file}: holds a {type(setups).__name__}, expected a list of setups")
    return tuple(_setup(setup, f"{file}: setup {number}") for number, setup in enumerate(setups))


def _setup(found: Any, where: str) -> Setup:
    keys = {"target class", "target index", "base class", "base indices"}
    if not isinstance(found, dict) or set(found) != keys:
        raise InputError(f"{where} is {str(found)[:80]}, expected a dict with the keys {sorted(keys)}")
    array = found["base indices"]
    base_ids = array.values if isinstance(array, _Array) else array
    target_class, target_id, base_class = (found[key] for key in ("target class", "target index", "base class"))
    numbers = [target_class, target_id, base_class, *base_ids] if isinstance(base_ids, list | tuple) else [None]
    if any(type(number) is not int for number in numbers):
        raise InputError(f"{where} holds something else than integers")
    return Setup(target_class, target_id, base_class, tuple(base_ids))


class _RefusedError(Exception):
    """A pickle names what the benchmark's files do not need."""


class _Integer:
    """Stands in for numpy.dtype; only integers are known."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in ("i1", "i2", "i4", "i8", "u1", "u2", "u4"):
            raise _RefusedError(f"holds numbers of the type {code!r}")
        self.numpy = np.dtype("<" + code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|"):
            raise _RefusedError(f"holds numbers in the byte order {state[1]!r}")


class _Array:
    """Stands in for a numpy array of integers."""

    def __init__(self, kind: object, shape: tuple[int, ...], code: bytes) -> None:
        self.values: tuple[int, ...] = ()

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Integer, bool, bytes]) -> None:
        _, shape, kind, _, data = state
        if len(shape) != 1 or len(data) != math.prod(shape) * kind.numpy.itemsize:
            raise ValueError(f"an array of shape {shape} in {len(data)} bytes")
        self.values = tuple(np.frombuffer(data, kind.numpy).tolist())


class _Scalar:
    """Stands in for numpy's maker of single numbers; makes plain ints."""

    def __new__(cls, kind: _Integer, data: bytes) -> Any:
        (value,) = np.frombuffer(data, kind.numpy).tolist()
        return value


class _IntegersOnly(pickle.Unpickler):
    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "dtype"): _Integer,
        ("numpy", "ndarray"): object,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.multiarray", "scalar"): _Scalar,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "scalar"): _Scalar,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise _RefusedError(f"asks for {module}.{name}")
        return self._KNOWN[module, name]
