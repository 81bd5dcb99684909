"""Tables for people, made of the summaries that runs leave."""

from collections.abc import Mapping
from typing import Any

from stages.summarize import RATES, aligned, mean_and_error, mean_loss, rate


def comparison(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The variants of an experiment side by side: mean B, and each rate as mean ± standard error over cases.

    Where all variants have the same cases, so that those can be paired, the last columns have each variant's B and
    poison success (in points) less the first one's: the mean of the differences within a case ± its standard error.
    """
    first, *others = variants.values()
    paired = bool(others) and all(_cases(figures) == _cases(first) for figures in others)
    rows = []
    for variant, figures in variants.items():
        losses = mean_loss(figures["cases"])
        rates = [rate(figures["summary"][name]) for name in RATES]
        rows.append((variant, _spread(losses, 4), *rates, *(_less(figures, first) if paired else ())))
    less = ("B less the first's", "success less the first's")
    head = ("variant", "B", *(name.replace("_", " ") for name in RATES), *(less if paired else ()))
    return aligned(head, rows)


def _cases(figures: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(case["target_ids"], case["intended_class"], case["poisons"]) for case in figures["cases"]]


def _less(figures: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[str, str]:
    if figures is first:
        return "", ""

    def differences(field: str, scale: float) -> dict[str, float | None]:
        pairs = [(case[field], other[field]) for case, other in zip(figures["cases"], first["cases"], strict=True)]
        if any(None in pair for pair in pairs):  # B of poisons that were made elsewhere
            return {"mean": None, "se": None}
        return mean_and_error([scale * (value - other) for value, other in pairs])

    return _spread(differences("brew_loss", 1), 4, "+"), _spread(differences("success", 100), 1, "+")


def _spread(figure: Mapping[str, float | None], digits: int, sign: str = "") -> str:
    if figure["mean"] is None:
        return "-"
    spread = "" if figure["se"] is None else f" ± {figure['se']:.{digits}f}"
    return f"{figure['mean']:{sign}.{digits}f}{spread}"
