"""How to have a run again: its experiment as one file, whatever variants it has, and the command."""

import shlex
from collections.abc import Mapping
from typing import Any

import yaml


def experiment_file(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The experiment that these are the variants of (or, under "", the only one), with every default, as YAML.

    Sections in which the variants differ are given for each.
    """
    first = next(iter(variants.values()))
    if list(variants) == [""]:
        return yaml.safe_dump(dict(first), sort_keys=False, allow_unicode=True)
    names = list(dict.fromkeys(name for one in variants.values() for name in one))
    differ = [name for name in names if any(one.get(name) != first.get(name) for one in variants.values())]
    file = {name: value for name, value in first.items() if name not in differ}
    file["variants"] = {name: {of: one[of] for of in differ if of in one} for name, one in variants.items()}
    return yaml.dump(file, Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)


class _WithoutAliases(yaml.SafeDumper):
    """Writes what several variants share out for each: people read it."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def command(file: str, store: str) -> str:
    """What runs the file, or goes on with it, in the same store."""
    return shlex.join(["brewline", "run", file, "--store", store])
