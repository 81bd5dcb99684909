"""Tables for people, made of the summaries that runs leave."""

from collections.abc import Mapping
from typing import Any

from stages.summarize import RATES, aligned, mean_and_error, rate


def comparison(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """The variants of an experiment side by side: mean B, and each rate as mean ± standard error over cases."""
    rows = []
    for variant, figures in variants.items():
        losses = mean_and_error([case["brew_loss"] for case in figures["cases"]])
        spread = "" if losses["se"] is None else f" ± {losses['se']:.4f}"
        rows.append((variant, f"{losses['mean']:.4f}{spread}", *(rate(figures["summary"][name]) for name in RATES)))
    return aligned(("variant", "B", *(name.replace("_", " ") for name in RATES)), rows)
