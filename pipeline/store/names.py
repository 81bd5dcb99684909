"""The names and lines that callers and users give, checked before they are stored."""

import re

from stages.config import InputError

LEASE_SECONDS = 45.0
"""A lease that is not renewed for so long is another's to take: its holder is dead, or cut off."""

GRACE_SECONDS = 7 * 24 * 3600.0
"""A blob that no manifest names is left alone for so long: an attempt may be about to name it."""

MANY = 100
"""Steps from which on a store lists what there is, before it reads those that are."""

KEY = re.compile("[0-9a-f]{64}")
"""A whole key; a sha256 is one too."""


def whole_key(key: str) -> str:
    """`key` if it is a whole key. Raises ValueError else: whatever lies in a key's scratch folder gets deleted."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key; expected 64 characters of 0-9 and a-f")
    return key


def key_prefix(prefix: str) -> str:
    """`prefix` if it is how a key may begin. Raises InputError else."""
    if not re.fullmatch(r"[0-9a-f]{4,64}", prefix):
        raise InputError(f"key {prefix!r}: expected at least 4 and at most 64 characters of 0-9 and a-f")
    return prefix


def is_run(name: str) -> bool:
    """Whether a run, or a run's file, may have this name."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name))


def run_file(run: str, name: str) -> str:
    """`runs/<run>/<name>`. Raises InputError if either is no plain name."""
    for part in (run, name):
        if not is_run(part):
            raise InputError(f"run name {part!r}: expected letters, digits, '.', '_' and '-', a letter or digit first")
    return f"runs/{run}/{name}"


def whole_lines(lines: str) -> bytes:
    """`lines` as UTF-8 if each ends with a line break. Raises ValueError else: the next one's would run on."""
    if not lines.endswith("\n"):
        raise ValueError(f"{lines!r} must end with a line break")
    return lines.encode()
