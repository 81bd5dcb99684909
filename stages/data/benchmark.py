"""The fixed setups of the poisoning benchmark (Schwarzschild et al. 2021, arXiv 2006.12557), read from its pickles."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.config import InputError
from stages.data import pickles


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
    setups = pickles.load(data, file, pickles.INTEGERS, "integers and integer arrays")
    if not isinstance(setups, list) or not setups:
        raise InputError(f"{file}: holds a {type(setups).__name__}, expected a list of setups")
    return tuple(_setup(setup, f"{file}: setup {number}") for number, setup in enumerate(setups))


def _setup(found: Any, where: str) -> Setup:
    keys = {"target class", "target index", "base class", "base indices"}
    if not isinstance(found, dict) or set(found) != keys:
        raise InputError(f"{where} is a {type(found).__name__}, expected a dict with the keys {sorted(keys)}")
    array = found["base indices"]
    base_ids = array.values if isinstance(array, pickles.Array) else array
    target_class, target_id, base_class = (found[key] for key in ("target class", "target index", "base class"))
    numbers = [target_class, target_id, base_class, *base_ids] if isinstance(base_ids, list | tuple) else [None]
    if any(type(number) is not int for number in numbers):
        raise InputError(f"{where} holds something else than integers")
    return Setup(target_class, target_id, base_class, tuple(base_ids))
