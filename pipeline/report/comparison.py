"""Variants side by side, as plain text; and, where their cases are the same, the differences within the pairs."""

from collections.abc import Mapping
from typing import Any

from stages import tally
from stages.summarize import RATES, aligned, mean_and_error, mean_loss, rate


def comparison(variants: Mapping[str, Mapping[str, Any]], papers: Mapping[str, float | None] | None = None) -> str:
    """The variants of an experiment side by side: mean B, and each rate as mean ± standard error over cases.

    papers: the paper's avg. poison success of those variants for which it has one, shown if any has.
    Where all variants have the same cases, so that those can be paired, the last columns have each variant's B and
    poison success (in points) less the first one's: the mean of the differences within a case ± its standard error.
    """
    if without_targets := {name: found for name, found in variants.items() if "accuracy_drop" in found["summary"]}:
        others_found = {name: found for name, found in variants.items() if name not in without_targets}
        return tally.compared(without_targets) + (comparison(others_found, papers) if others_found else "")
    first, *others = variants.values()
    pairs = bool(others) and all(same_cases(figures, first) for figures in others)
    told = {variant: value for variant, value in (papers or {}).items() if value is not None}
    rows = []
    for variant, figures in variants.items():
        losses = mean_loss(figures["cases"])
        rates = [rate(figures["summary"][name]) for name in RATES]
        paper = (f"{100 * told[variant]:g} %" if variant in told else "",) if told else ()
        rows.append((variant, spread(losses, 4), *rates, *paper, *(_less(figures, first) if pairs else ())))
    less = ("B less the first's", "success less the first's")
    paper = ("the paper",) if told else ()
    head = ("variant", "B", *(name.replace("_", " ") for name in RATES), *paper, *(less if pairs else ()))
    return aligned(head, rows)


def same_cases(figures: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether two results are of the same targets, intended classes and numbers of poisons, so that they pair."""
    return _cases(figures) == _cases(others)


def _cases(figures: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(case["target_ids"], case["intended_class"], case["poisons"]) for case in figures["cases"]]


def paired(
    figures: Mapping[str, Any], first: Mapping[str, Any], field: str, scale: float = 1
) -> dict[str, float | None]:
    """A field of the cases less that of the first's same cases, times `scale`: mean and standard error of the
    differences; null where a case lacks it, as B of poisons that were made elsewhere."""
    pairs = [(case[field], other[field]) for case, other in zip(figures["cases"], first["cases"], strict=True)]
    if any(None in pair for pair in pairs):
        return {"mean": None, "se": None}
    return mean_and_error([scale * (value - other) for value, other in pairs])


def _less(figures: Mapping[str, Any], first: Mapping[str, Any]) -> tuple[str, str]:
    if figures is first:
        return "", ""
    return spread(paired(figures, first, "brew_loss"), 4, "+"), spread(paired(figures, first, "success", 100), 1, "+")


def spread(figure: Mapping[str, float | None], digits: int, sign: str = "") -> str:
    """A mean with its standard error where it has one; a dash where there is neither."""
    if figure["mean"] is None:
        return "-"
    spread = "" if figure["se"] is None else f" ± {figure['se']:.{digits}f}"
    return f"{figure['mean']:{sign}.{digits}f}{spread}"
