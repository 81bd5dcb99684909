"""Tables for people, made of the summaries that runs leave."""

from collections.abc import Mapping
from typing import Any

from stages.summarize import RATES, aligned, mean_and_error, rate


def comparison(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The variants of an experiment side by side: mean B, and each rate as mean ± standard error over cases.

    Where all variants have the same cases, so that those can be paired, the last column has each variant's poison
    success less the first one's: the mean of the differences within a case ± its standard error, in points.
    """
    first, *others = variants.values()
    paired = bool(others) and all(_cases(figures) == _cases(first) for figures in others)
    rows = []
    for variant, figures in variants.items():
        losses = mean_and_error([case["brew_loss"] for case in figures["cases"]])
        rates = [rate(figures["summary"][name]) for name in RATES]
        rows.append((variant, _spread(losses, 4), *rates, *([_less(figures, first)] if paired else [])))
    head = ("variant", "B", *(name.replace("_", " ") for name in RATES))
    return aligned((*head, *(["success, less the first's"] if paired else [])), rows)


def _cases(figures: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(case["target_ids"], case["intended_class"], case["poisons"]) for case in figures["cases"]]


def _less(figures: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    if figures is first:
        return ""
    pairs = zip(figures["cases"], first["cases"], strict=True)
    return _spread(mean_and_error([100 * (case["success"] - other["success"]) for case, other in pairs]), 1, "+")


def _spread(figure: Mapping[str, float | None], digits: int, sign: str = "") -> str:
    spread = "" if figure["se"] is None else f" ± {figure['se']:.{digits}f}"
    return f"{figure['mean']:{sign}.{digits}f}{spread}"
