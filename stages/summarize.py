"""Stage `summarize`: what a whole run found, in numbers (`summary.json`), as a table and in pictures."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from stages.config import Config
from stages.data.cases import class_names, heading
from stages.stage import Context, Metrics, numbered

if TYPE_CHECKING:
    from stages.case_figure import CasePicture
    from stages.data.cases import Case
    from stages.data.images import Dataset
    from stages.gallery import Gallery
    from stages.shards.poisons import PoisonSet

VERSION = 2

RATES = {
    "poison_success": "success",
    "clean_success": "clean_success",
    "poisoned_accuracy": "poisoned_accuracy",
    "clean_accuracy": "clean_accuracy",
}
"""What is averaged over cases, and the field of a case that it is the average of."""


class Params(Config):
    """What there is to sum up. Inputs: `dataset`; of each case c `case.c`, `overlay.c` (the poisons that were trained
    on), and `brew.c.r` of each restart r, or where restarts are raced `brew.c.0`, `brew.c.1`, … of each leg after the
    other; of each victim v of it the evaluations `poisoned.c.v` and `clean.c.v`.
    Poisons that were made elsewhere have no restarts, and no B."""

    cases: Annotated[int, Field(ge=1)]
    victims: Annotated[int, Field(ge=1)]
    """Victims a case: so many poisoned, and so many clean with the same seeds."""
    restarts: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class CaseResult:
    """All that is known of one case: the draw, the poisons, B at each step of each restart (until it was dropped, where
    restarts are raced), and the evaluations of its victims, poisoned and clean with the same seeds."""

    number: int
    case: "Case"
    poisons: "PoisonSet"
    losses: list[list[float]]
    poisoned: list[dict[str, Any]]
    clean: list[dict[str, Any]]


def run(params: Params, inputs: Mapping[str, Path], out: Path, ctx: Context) -> Metrics:
    """Writes `summary.json`, `table.txt`, `case-NN.png` of each case, `adversarial-loss.png`, `success.png` and, where
    poisons were brewed, `brew-loss.png`; where victims begin with a surrogate `features-NN.png` of each case, of its
    first victim, and `angular-deviation.png`; and for reports `gallery.json` with `gallery-NN.png` of each case.
    Returns the summary."""
    from stages import figures, gallery
    from stages.case_figure import case_picture
    from stages.shards import base_shards, poisons

    dataset = base_shards.load(inputs["dataset"])
    results = [_read(params, inputs, number) for number in range(params.cases)]
    for result in results:
        poisons.check(result.poisons, dataset.train, result.poisons.info["eps"])
    rows = [_row(result, dataset.info.classes) for result in results]
    counts = {"cases": params.cases, "victims": params.victims}
    summary = {name: {**mean_and_error([row[field] for row in rows]), **counts} for name, field in RATES.items()}
    (out / "summary.json").write_text(json.dumps({"cases": rows, "summary": summary}, indent=1, allow_nan=False))
    (out / "table.txt").write_text(table(rows, summary))
    for result, row in zip(results, rows, strict=True):
        figures.save(case_picture(_picture(result, row, dataset)), out / f"case-{result.number:02d}.png")
        ctx.progress(result.number + 1, params.cases)
    sheets = []
    for result in results:
        name = f"gallery-{result.number:02d}.png"
        data, facts = gallery.sheet(_gallery(result, dataset))
        (out / name).write_bytes(data)
        sheets.append({"case": result.number, "file": name, **facts})
    (out / gallery.GALLERY).write_text(json.dumps(sheets, indent=1))
    _charts(results, rows, summary, out)
    _feature_charts(results, rows, inputs, out)
    return summary


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """`mean` and `se`, its standard error: the sample's standard deviation / √n, null for a single value."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "se": error}


def table(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]]) -> str:
    """The cases and their mean ± standard error as aligned plain text, rates in percent."""
    head = ("case", "target → intended", "poisons", "B", "success", "clean success", "accuracy", "clean accuracy")
    lines = []
    for row in rows:
        rates = (f"{100 * row[field]:.1f} %" for field in RATES.values())
        title = heading(row["target_class"], row["intended_class"])
        lines.append((str(row["case"]), title, str(row["poisons"]), loss(row["brew_loss"]), *rates))
    means = (rate(summary[name]) for name in RATES)
    mean = ("", "mean ± standard error" if len(rows) > 1 else "mean", "", loss(mean_loss(rows)["mean"]), *means)
    return aligned(head, lines, mean, left=1)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str] = (), left: int = 0) -> str:
    """A plain text table whose columns line up, to the right but for column `left`."""
    lines = [head, *rows, *([foot] if foot else [])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(w) if column == left else cell.rjust(w) for column, (cell, w) in enumerate(cells)).rstrip()
        for cells in (zip(line, widths, strict=True) for line in lines)
    ]
    rule = "-" * max(map(len, text))
    body = [*text[1:-1], rule, text[-1]] if foot else text[1:]
    return "\n".join([text[0], rule, *body]) + "\n"


def rate(figure: Mapping[str, Any]) -> str:
    """A mean in percent, with its standard error where it has one."""
    spread = "" if figure["se"] is None else f" ± {100 * figure['se']:.1f}"
    return f"{100 * figure['mean']:.1f}{spread} %"


def mean_loss(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean B over the cases and its standard error; null where poisons were made elsewhere."""
    losses = [row["brew_loss"] for row in rows]
    return {"mean": None, "se": None} if None in losses else mean_and_error(losses)


def loss(B: float | None) -> str:
    """B as tables show it."""
    return "-" if B is None else f"{B:.4f}"


def _read(params: Params, inputs: Mapping[str, Path], c: int) -> CaseResult:
    from stages.data.cases import load_case
    from stages.shards import overlay, poisons

    def evaluations(kind: str) -> list[dict[str, Any]]:
        folders = (inputs[f"{kind}.{c}.{v}"] for v in range(params.victims))
        return [json.loads((folder / "evaluation.json").read_text()) for folder in folders]

    curves = {}
    for number, folder in enumerate(numbered(inputs, f"brew.{c}") if params.restarts else ()):
        found = json.loads((folder / "brew.json").read_text())
        curves[found.get("restart", number)] = found["losses"]  # a later leg has those of the legs before it too
    losses = [curves[r] for r in range(params.restarts)]
    poison_set, case = poisons.load(inputs[f"overlay.{c}"], overlay.STEM), load_case(inputs[f"case.{c}"])
    return CaseResult(c, case, poison_set, losses, evaluations("poisoned"), evaluations("clean"))


def _row(result: CaseResult, classes: tuple[str, ...]) -> dict[str, Any]:
    case = result.case

    def over_victims(evaluations: list[dict[str, Any]], field: str) -> float:
        return statistics.fmean(evaluation[field] for evaluation in evaluations)

    def p_intended(evaluations: list[dict[str, Any]]) -> float:
        return statistics.fmean(target["p_intended"] for one in evaluations for target in one["targets"])

    def predictions(evaluations: list[dict[str, Any]]) -> list[str]:
        return [" | ".join(target["prediction_name"] for target in one["targets"]) for one in evaluations]

    return {
        "case": result.number,
        **class_names(case, classes),
        "target_ids": list(case.target_ids),
        "poisons": len(result.poisons.ids),
        "success": over_victims(result.poisoned, "success"),
        "clean_success": over_victims(result.clean, "success"),
        "brew_loss": result.poisons.info.get("brew_loss"),
        "poisoned_accuracy": over_victims(result.poisoned, "accuracy"),
        "clean_accuracy": over_victims(result.clean, "accuracy"),
        "p_intended": p_intended(result.poisoned),
        "clean_p_intended": p_intended(result.clean),
        "predictions": predictions(result.poisoned),
        "clean_predictions": predictions(result.clean),
    }


def _picture(result: CaseResult, row: Mapping[str, Any], dataset: "Dataset") -> "CasePicture":
    from stages.case_figure import Call, CasePicture
    from stages.figures import case_title

    def calls(evaluations: list[dict[str, Any]]) -> list[Call]:
        firsts = (evaluation["targets"][0] for evaluation in evaluations)
        return [Call(first["prediction_name"], first["p_prediction"], first["success"]) for first in firsts]

    target = result.case.target_ids[0]
    return CasePicture(
        title=f"Case {case_title(row, 24)}",
        base=dataset.train.of(result.poisons.ids).array,
        poisons=result.poisons.images,
        ids=result.poisons.ids.tolist(),
        eps=result.poisons.info["eps"],
        target=dataset.test.images[target],
        target_id=target,
        targets=len(result.case.target_ids),
        true_class=row["target_class"],
        intended_class=row["intended_class"],
        poison_class=row["poison_class"],
        brew_loss=row["brew_loss"],
        poisoned=calls(result.poisoned),
        clean=calls(result.clean),
    )


def _gallery(result: CaseResult, dataset: "Dataset") -> "Gallery":
    from stages.gallery import MOST, Gallery

    poisons, targets = result.poisons, list(result.case.target_ids[:MOST])
    return Gallery(
        base=dataset.train.of(poisons.ids[:MOST]).array,
        poisons=poisons.images[:MOST],
        poison_ids=poisons.ids[:MOST].tolist(),
        targets=dataset.test.of(targets).array,
        target_ids=targets,
    )


def _charts(results: list[CaseResult], rows: list[dict[str, Any]], summary: Mapping[str, Any], out: Path) -> None:
    import numpy as np

    from stages import figures

    def losses(evaluations: list[dict[str, Any]]) -> np.ndarray:
        return np.array([evaluation["curves"]["adversarial_loss"] for evaluation in evaluations])

    both = list(zip(results, rows, strict=True))
    adversarial = [
        figures.AdversarialLoss(
            figures.case_title(row, 12),
            result.poisoned[0]["curves"]["epochs"],
            losses(result.poisoned),
            losses(result.clean),
        )
        for result, row in both
    ]
    figures.save(figures.adversarial_loss(adversarial), out / "adversarial-loss.png")
    brews = [
        figures.BrewLoss(figures.case_title(row, 12), result.losses, result.poisons.info["restart"], row["brew_loss"])
        for result, row in both
        if result.losses
    ]
    if brews:
        figures.save(figures.brew_loss(brews), out / "brew-loss.png")
    chart = figures.success(
        [figures.case_title(row, 16) for row in rows],
        [row["success"] for row in rows],
        [row["clean_success"] for row in rows],
        (summary["poison_success"], summary["clean_success"]),
    )
    figures.save(chart, out / "success.png")


def _feature_charts(
    results: list[CaseResult], rows: list[dict[str, Any]], inputs: Mapping[str, Path], out: Path
) -> None:
    """Of victims that began with a surrogate, whose features can be compared; of others none."""
    from stages import feature_figure, features, figures

    victims = [evaluation["curves"] for result in results for evaluation in result.poisoned]
    turned = [(curves["epochs"], curves["angular_deviation"]) for curves in victims if "angular_deviation" in curves]
    if not turned:
        return
    figures.save(feature_figure.deviation_picture(turned), out / "angular-deviation.png")
    for result, row in zip(results, rows, strict=True):
        if result.case.intended_class is None:
            continue
        views = json.loads((inputs[f"poisoned.{result.number}.0"] / features.VIEW).read_text())
        names = {"target class": row["target_class"], "intended class": row["intended_class"]}
        picture = feature_figure.feature_picture(f"Case {figures.case_title(row, 12)}", views, names)
        figures.save(picture, out / f"features-{result.number:02d}.png")
