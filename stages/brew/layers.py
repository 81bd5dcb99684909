"""Which parameters take part in matching gradients, and with what weight: patterns of names against a network's own.

No torch here but in `precheck_layers`: an experiment with no such patterns is planned without it.
"""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from stages.config import InputError, nearest
from stages.data.images import DatasetInfo
from stages.models.config import Network


def weights_of(layers: Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    """The weight of each parameter: that of the longest pattern that names it or a module it is in, else 1.

    Raises InputError for a pattern that names nothing, for two as long that disagree, and where all weigh 0.
    """
    modules = {name: _above(name) for name in names}
    for pattern in layers:
        if not any(_names(pattern, above) for above in modules.values()):
            known = {module for above in modules.values() for module in above}
            raise InputError(
                f"attack.layers: {pattern!r} names no parameter of the surrogate, {nearest(pattern, known)}"
            )
    weights = {name: _weight(layers, name, above) for name, above in modules.items()}
    if not any(weights.values()):
        raise InputError("attack.layers: all parameters weigh 0, so there is nothing to match; leave one out")
    return weights


def precheck_layers(
    layers: Mapping[str, float], networks: Iterable[Network], shape: tuple[int, int, int], classes: int
) -> None:
    """Raises InputError, before any compute, where `weights_of` would for one of the networks."""
    from stages.models import outline

    channels = shape[2]
    info = DatasetInfo("", tuple(map(str, range(classes))), shape, (0.5,) * channels, (0.25,) * channels)
    for network in networks:
        weights_of(layers, [name for name, _ in outline(network, info).named_parameters()])


def _above(name: str) -> list[str]:
    """A parameter's name and those of the modules that it is in: a.b.c -> a, a.b, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _names(pattern: str, above: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in above)


def _weight(layers: Mapping[str, float], name: str, above: Iterable[str]) -> float:
    above = list(above)
    found = {pattern: weight for pattern, weight in layers.items() if _names(pattern, above)}
    longest = [pattern for pattern in found if len(pattern) == max(map(len, found))]
    if len({found[pattern] for pattern in longest}) > 1:
        raise InputError(
            f"attack.layers: {' and '.join(longest)} both name {name}, with other weights; make one longer"
        )
    return found[longest[0]] if longest else 1.0
