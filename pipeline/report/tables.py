"""Tables as the page's templates take them: text for people, beside it a value to sort by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.report.collect import RunFound
from pipeline.report.comparison import paired, same_cases, spread
from pipeline.runs import STATES
from pipeline.step import SHOWN
from stages.data.cases import heading
from stages.stage import STAGES
from stages.summarize import RATES, loss, mean_loss, rate


@dataclass(frozen=True)
class Cell:
    """value: what the column is sorted by, "" where nothing is known; null sorts by the text."""

    text: str
    value: float | str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column and whether it holds numbers."""

    label: str
    number: bool = False


@dataclass(frozen=True)
class Table:
    """bodies: the rows; where there are several bodies one is shown at a time."""

    caption: str
    head: Sequence[Column]
    bodies: Sequence[Sequence[Sequence[Cell]]]
    foot: Sequence[Cell] = field(default_factory=tuple)


def number(value: float | None, text: str) -> Cell:
    """A number as it is shown; a dash where there is none."""
    return Cell("–", "") if value is None else Cell(text.format(value), value)


def percent(value: float | None, strong: bool = False) -> Cell:
    """A fraction in percent."""
    return Cell("–", "") if value is None else Cell(f"{100 * value:.1f} %", value, strong)


def mean(figure: Mapping[str, Any]) -> Cell:
    """A mean in percent with its standard error."""
    return Cell("–", "") if figure["mean"] is None else Cell(rate(figure), figure["mean"])


def of_cases(figures: Mapping[str, Any], caption: str) -> Table:
    """A row a case, and the means."""
    head = [Column("case", True), Column("target → intended"), Column("target ids"), Column("poisons", True)]
    head += [Column(label, True) for label in ("B", "success", "clean success", "p(intended)", "clean p(intended)")]
    head += [Column(label, True) for label in ("accuracy", "clean accuracy")]
    rows = []
    for row in figures["cases"]:
        classes = heading(row["target_class"], row["intended_class"]) if row["target_class"] else "not drawn yet"
        rows.append(
            [
                Cell(str(row["case"]), row["case"]),
                Cell(classes),
                Cell(" ".join(map(str, row["target_ids"] or ()))),
                number(row["poisons"], "{}"),
                number(row["brew_loss"], "{:.4f}"),
                percent(row["success"], strong=bool(row["success"])),
                percent(row["clean_success"]),
                number(row["p_intended"], "{:.2f}"),
                number(row["clean_p_intended"], "{:.2f}"),
                percent(row["poisoned_accuracy"]),
                percent(row["clean_accuracy"]),
            ]
        )
    means = {name: mean(figures["summary"][name]) for name in RATES}
    blank = Cell("")
    foot = [blank, Cell("mean"), blank, blank, Cell(loss(known_loss(figures)["mean"]))]
    foot += [means["poison_success"], means["clean_success"], blank, blank]
    foot += [means["poisoned_accuracy"], means["clean_accuracy"]]
    return Table(caption, head, [rows], foot)


def known_loss(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean B and its standard error, of the cases that have one; null where none has."""
    rows = [row for row in figures["cases"] if row["brew_loss"] is not None]
    return mean_loss(rows) if rows else {"mean": None, "se": None}


def of_stages(run: RunFound) -> Table:
    """A row a stage: how many steps are how far, and how long they took."""
    states = [state for state in STATES if state == "done" or run.count(state)]
    labels = ["steps", *states, "cached", "minutes of steps"]
    head = [Column("stage"), *(Column(label, True) for label in labels)]
    rows = []
    for order, stage in enumerate(STAGES):
        steps = [step for step in run.steps if step.stage == stage]
        if not steps:
            continue
        counts = [sum(step.state == state for step in steps) for state in states]
        seconds = sum(step.seconds or 0 for step in steps)
        numbers = [len(steps), *counts, sum(step.cached for step in steps)]
        rows.append(
            [
                Cell(stage, order),
                *(Cell(str(count), count) for count in numbers),
                Cell(f"{seconds / 60:.1f}", seconds),
            ]
        )
    return Table(f"Steps of {run.run} by stage; cached ones were in the store already", head, [rows])


def of_steps(run: RunFound) -> Table:
    """A row a step."""
    named = len(run.variants) > 1
    labels = (("step", False), ("state", False), ("began", False), ("seconds", True), ("host", False), ("key", False))
    rows = []
    for order, step in enumerate(run.steps):
        state = "cached" if step.cached else step.state
        rows.append(
            [
                Cell(step.label, order),
                Cell(f"{state}: {step.note}" if step.note else state),
                Cell(step.started),
                number(step.seconds, "{:.1f}"),
                Cell(step.host),
                Cell(step.key[:SHOWN]),
                *([Cell("all" if len(step.variants) == len(run.variants) else ", ".join(step.variants))] * named),
            ]
        )
    return Table(
        f"All steps of {run.run}",
        [*(Column(label, of_number) for label, of_number in labels), *([Column("variant")] * named)],
        [rows],
    )


def compared(names: Sequence[str], found: Sequence[Mapping[str, Any]], whole: bool) -> tuple[Table, bool]:
    """A row a variant; and, where all are whole and have the same cases, a body for each variant that the others may
    be compared with, in pairs. Says whether they pair."""
    first, *others = found
    pairs = whole and all(same_cases(figures, first) for figures in others)
    head = [Column("variant"), Column("cases", True), Column("B", True)]
    head += [Column(name.replace("_", " "), True) for name in RATES]
    if pairs:
        head += [Column("success, difference", True), Column("B, difference", True)]
    bodies = []
    for baseline in found if pairs else [first]:
        rows = []
        for order, (name, figures) in enumerate(zip(names, found, strict=True)):
            losses = known_loss(figures)
            row = [Cell(name, order), number(len(figures["cases"]), "{}")]
            row.append(Cell(spread(losses, 4) if losses["mean"] is not None else "–", _or_blank(losses["mean"])))
            row += [mean(figures["summary"][of]) for of in RATES]
            if pairs:
                row += _differences(figures, baseline)
            rows.append(row)
        bodies.append(rows)
    return Table("The variants side by side", head, bodies), pairs


def _differences(figures: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[Cell]:
    if figures is baseline:
        return [Cell("compared with", 0), Cell("compared with", 0)]
    success, B = paired(figures, baseline, "success", 100), paired(figures, baseline, "brew_loss")
    points = Cell(f"{spread(success, 1, '+')} points", _or_blank(success["mean"]))
    return [points, Cell(spread(B, 4, "+") if B["mean"] is not None else "–", _or_blank(B["mean"]))]


def _or_blank(value: float | None) -> float | str:
    return "" if value is None else value


def compared_by_case(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> Table:
    """A row a case, a column a variant: poison success. The variants must have the same cases."""
    head = [Column("case", True), Column("target → intended"), *(Column(name, True) for name in names)]
    rows = []
    for number_, row in enumerate(found[0]["cases"]):
        title = heading(row["target_class"], row["intended_class"])
        successes = [figures["cases"][number_]["success"] for figures in found]
        rows.append([Cell(str(row["case"]), row["case"]), Cell(title), *(percent(one, bool(one)) for one in successes)])
    return Table("Poison success by case", head, [rows])
