"""A step: one run of one stage, as data, and the key it is stored under.

A key is the sha256 of canonical JSON of what the step is made of: the stage and its VERSION, the identity of its
params (defaults included), and the keys of its inputs. Never a path, a pickle, a `repr` or output bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from stages.config import Config, identity
from stages.stage import load_stage

SHOWN = 12
"""Characters of a key that are shown to people."""


class Ref(NamedTuple):
    """Names a step's output: its stage and its key."""

    stage: str
    key: str


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: object) -> bytes:
    """The one JSON text of a value: sorted names, no spaces, no NaN."""
    return _ENCODER.encode(value).encode()


@dataclass(frozen=True)
class Step:
    """One run of a stage. label: what people read, as in `brew case 0 restart 3`; never part of the key."""

    stage: str
    params: Config
    inputs: Mapping[str, Ref] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def version(self) -> int:
        """The stage's VERSION."""
        return int(load_stage(self.stage).VERSION)

    @cached_property
    def made_of(self) -> dict[str, Any]:
        """Everything that the key is computed from, JSON-ready."""
        return {
            "stage": self.stage,
            "version": self.version,
            "params": identity(self.params),
            "inputs": {role: ref.key for role, ref in self.inputs.items()},
        }

    @cached_property
    def key(self) -> str:
        """64 hexadecimal characters."""
        return hashlib.sha256(canonical(self.made_of)).hexdigest()

    @property
    def ref(self) -> Ref:
        """How other steps name this one's output."""
        return Ref(self.stage, self.key)


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields in which two `made_of` differ: (path, value in first, value in second), ABSENT where there is none."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return {
                k: v for name, item in value.items() for k, v in flat(item, f"{path}.{name}" if path else name).items()
            }
        return {path: value}

    one, two = flat(first, ""), flat(second, "")
    return [
        (p, one.get(p, ABSENT), two.get(p, ABSENT))
        for p in sorted({*one, *two})
        if one.get(p, ABSENT) != two.get(p, ABSENT)
    ]


ABSENT = "(absent)"
