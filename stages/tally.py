"""Stage `tally`: what poisons without targets cost in accuracy, with the clean victims of the same seeds beside."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.config import Config
from stages.stage import Context, Metrics
from stages.summarize import aligned, mean_and_error, rate

if TYPE_CHECKING:
    import numpy as np

VERSION = 1

RATES = ("accuracy_drop", "poisoned_accuracy", "clean_accuracy", "target_accuracy")
"""What is averaged, in the order of tables."""
SHOWN = 16
"""Poisons on a picture."""


class Params(Config):
    """What there is to sum up. Inputs: `dataset`; of each case c `cancel.c` and `overlay.c`; of each victim v of it the
    assessments `poisoned.c.v` and `clean.c.v`."""

    cases: Annotated[int, Field(ge=1)]
    victims: Annotated[int, Field(ge=1)]
    """Victims a case: so many poisoned, and so many clean with the same seeds."""


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `summary.json`, `table.txt`, `brew-loss.png` and `poisons-NN.png` of each case: the images where the
    first poisons began, above the poisons. Returns the summary.

    Rates are means over victims ± standard error; where there are several cases, a victim's is its mean over them. The
    accuracy drop is that of a poisoned victim against the clean one of its seed (Lu, Kamath & Yu 2023, table 2).
    """
    from stages import figures, gallery
    from stages.shards import base_shards, overlay, poisons

    dataset = base_shards.load(inputs["dataset"])
    rows, curves = [], []
    for c in range(params.cases):
        made = _read(inputs[f"cancel.{c}"] / "brew.json")
        found = poisons.load(inputs[f"overlay.{c}"], overlay.STEM)
        poisons.check(found, dataset.train, None)
        poisoned, clean = (
            [_read(inputs[f"{of}.{c}.{v}"] / "evaluation.json")["accuracy"] for v in range(params.victims)]
            for of in _KINDS
        )
        curves.append(made.pop("losses"))
        rows.append({"case": c, **made, "poisoned": poisoned, "clean": clean})
        first = found.ids[:SHOWN]
        picture = _picture(dataset.train.of(first).array, found.images[:SHOWN])
        (out / f"poisons-{c:02d}.png").write_bytes(gallery.png(picture))
        ctx.progress(c + 1, params.cases)
    summary = summed_up(rows)
    (out / "summary.json").write_text(json.dumps({"cases": rows, "summary": summary}, indent=1, allow_nan=False))
    (out / "table.txt").write_text(table(rows, summary))
    charts = [
        figures.BrewLoss(f"case {row['case']}", [losses], 0, row["brew_loss"])
        for row, losses in zip(rows, curves, strict=True)
    ]
    figures.save(figures.brew_loss(charts), out / "brew-loss.png")
    return summary


_KINDS = ("poisoned", "clean")


def summed_up(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and standard error over victims of each rate, with how many cases and victims it is of."""
    victims = range(len(rows[0]["poisoned"]))
    poisoned, clean = ([statistics.fmean(row[of][v] for row in rows) for v in victims] for of in _KINDS)
    drops = [b - a for a, b in zip(poisoned, clean, strict=True)]
    counts = {"cases": len(rows), "victims": len(victims)}
    values = {"accuracy_drop": drops, "poisoned_accuracy": poisoned, "clean_accuracy": clean}
    target = statistics.fmean(row["target_accuracy"] for row in rows)
    found = {name: {**mean_and_error(of), **counts} for name, of in values.items()}
    return {**found, "target_accuracy": {"mean": target, "se": None, **counts}}


def table(rows: list[dict[str, Any]], summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The cases, and their mean ± standard error over victims, as aligned plain text; rates in percent.

    `left` is the part of the clean gradient's length that the poisons leave at the target parameters.
    """
    head = ("case", "poisons", "eps_d", "tau", "left", *(name.replace("_", " ") for name in RATES))
    lines = []
    for row in rows:
        of = summed_up([row])
        made = (f"{row['eps_d']:.4g}", f"{row['tau']:.4g}", f"{row['left']:.4f}")
        lines.append((str(row["case"]), str(row["poisons"]), *made, *(rate(of[name]) for name in RATES)))
    return aligned(head, lines, ("mean", "", "", "", "", *(rate(summary[name]) for name in RATES)))


def compared(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Variants side by side, a row each, as plain text. variants: of each, {cases, summary} as `run` writes them."""
    rows = []
    for variant, figures in variants.items():
        means = (statistics.fmean(row[name] for row in figures["cases"]) for name in ("eps_d", "tau", "left"))
        rows.append((variant, *(f"{mean:.4g}" for mean in means), *(rate(figures["summary"][name]) for name in RATES)))
    return aligned(("variant", "eps_d", "tau", "left", *(name.replace("_", " ") for name in RATES)), rows)


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _picture(*rows: "np.ndarray") -> "np.ndarray":
    """Rows of images, uint8 [n, H, W, C] each, as one; small ones enlarged by a whole number."""
    import numpy as np

    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    times = max(1, 64 // rows[0].shape[1])
    return sheet.repeat(times, 0).repeat(times, 1)
