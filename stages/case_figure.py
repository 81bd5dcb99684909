"""The picture of one case: what the poisons look like, how little they change, and what the victims make of the target.

Laid out in inches from the top left corner, so that nothing overlaps whatever the number of poisons and victims.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stages.data.cases import of_class
from stages.figures import FAINT, INK, MUTED, POISONED, STYLE, shorten

POISONS, VICTIMS = 8, 16
"""Most poisons and most victims shown; the picture says of how many."""

DPI = 150
CELL, GAP, EDGE, LABELS, TOP, ROW = 1.0, 0.06, 0.25, 1.15, 0.95, 0.2
TARGET, LIST = 1.3, 4.5


@dataclass(frozen=True)
class Call:
    """What one victim calls the target: the class name, its probability, and whether the attacker intends it."""

    name: str
    probability: float
    success: bool


@dataclass(frozen=True)
class CasePicture:
    """All that the picture of a case shows.

    base, poisons: uint8 [P, H, W, C], the same images without and with the perturbation.  ids: [P] train ids.
    target: uint8 [H, W, C], of `targets` targets the first.  poisoned, clean: one call a victim, of the same seeds.
    eps: the allowed change in 1/255, or None where it is not bounded.  brew_loss: B, or None where none is known.
    intended_class: None is any but the true one.  poison_class: None is several.
    """

    title: str
    base: np.ndarray
    poisons: np.ndarray
    ids: Sequence[int]
    eps: float | None
    target: np.ndarray
    target_id: int
    targets: int
    true_class: str
    intended_class: str | None
    poison_class: str | None
    brew_loss: float | None
    poisoned: Sequence[Call]
    clean: Sequence[Call]


class _Page:
    """A figure on which everything is placed in inches from the top left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI)

    def text(self, x: float, y: float, text: str, **look: Any) -> None:
        look = {"va": "center", "fontsize": 8.5, **look}
        self.figure.text(x / self.width, 1 - y / self.height, text, **look)

    def image(self, x: float, y: float, side: float, pixels: np.ndarray, label: str) -> None:
        box = (x / self.width, 1 - (y + side) / self.height, side / self.width, side / self.height)
        axes = self.figure.add_axes(box, label=label)
        # Small images keep their square pixels; one shrunk by nearest-neighbour would be full of artefacts.
        kind = "nearest" if max(pixels.shape[:2]) <= side * DPI else "antialiased"
        grey = pixels.shape[2] == 1
        axes.imshow(pixels[..., 0] if grey else pixels, cmap="gray", vmin=0, vmax=255, interpolation=kind)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=FAINT, linewidth=0.6)

    def line(self, x: float, y: float, width: float) -> None:
        ends, level = (x / self.width, (x + width) / self.width), 1 - y / self.height
        self.figure.add_artist(Line2D(ends, (level, level), color=FAINT, linewidth=0.8))


def amplified(base: np.ndarray, poisons: np.ndarray) -> tuple[np.ndarray, int, int]:
    """The change from base to poison, made visible: uint8 images, the factor, and the largest change in 1/255.

    128 is no change; the factor is the largest whole one that keeps 128 ± factor · change within 1..255.
    """
    change = poisons.astype(np.int16) - base.astype(np.int16)
    largest = int(np.abs(change).max())
    factor = max(1, 127 // largest) if largest else 1
    return np.clip(128 + factor * change, 0, 255).astype(np.uint8), factor, largest


@style.context(STYLE)
def case_picture(case: CasePicture) -> Figure:
    """The picture of a case: up to `POISONS` poisons in three rows (base, poison, amplified change), and beside them
    the target with what each victim calls it."""
    shown = min(len(case.ids), POISONS)
    victims = min(len(case.poisoned), VICTIMS)
    right = EDGE + LABELS + shown * (CELL + GAP) + 0.45
    body = max(3 * (CELL + GAP) + 0.3, TARGET + 0.2 + ROW * (victims + 3.4))
    page = _Page(right + LIST + EDGE, TOP + body + 0.15)
    _poisons(page, case, shown)
    _target(page, case, right)
    _calls(page, case, right, TOP + TARGET + 0.3, victims)
    return page.figure


def _poisons(page: _Page, case: CasePicture, shown: int) -> None:
    changes, factor, largest = amplified(case.base, case.poisons)
    page.text(EDGE, 0.3, case.title, fontsize=12, fontweight="bold")
    bound = "" if case.eps is None else f", allowed {case.eps:g}/255"
    poison_class = case.poison_class and shorten(case.poison_class, 24)
    parts = [f"{len(case.ids)} poisons {of_class(poison_class)}"]
    if case.brew_loss is not None:
        parts.append(f"B = {case.brew_loss:.3f}")
    if shown < len(case.ids):
        parts.insert(1, f"{shown} shown")
    page.text(EDGE, 0.55, " · ".join(parts), color=MUTED)
    page.text(EDGE, 0.74, f"largest change {largest}/255{bound}", color=MUTED)
    rows = (("base", "as it was", case.base), ("poison", "as trained on", case.poisons))
    notes = (*rows, ("change", f"× {factor}, grey is none", changes))
    for row, (label, note, images) in enumerate(notes):
        y = TOP + row * (CELL + GAP)
        page.text(EDGE, y + CELL / 2 - 0.08, label, fontweight="bold")
        page.text(EDGE, y + CELL / 2 + 0.09, note, fontsize=7, color=MUTED)
        for column in range(shown):
            x = EDGE + LABELS + column * (CELL + GAP)
            page.image(x, y, CELL, images[column], f"{label} {case.ids[column]}")
    for column in range(shown):
        x = EDGE + LABELS + column * (CELL + GAP) + CELL / 2
        page.text(x, TOP + 3 * (CELL + GAP) + 0.08, str(case.ids[column]), ha="center", fontsize=7, color=MUTED)
    page.text(EDGE, TOP + 3 * (CELL + GAP) + 0.08, "train image", fontsize=7, color=MUTED)


def _target(page: _Page, case: CasePicture, x: float) -> None:
    page.image(x, TOP, TARGET, case.target, "target")
    beside = x + TARGET + 0.2
    more = "" if case.targets == 1 else f", first of {case.targets} targets"
    page.text(beside, TOP + 0.15, f"target: test image {case.target_id}{more}", fontweight="bold")
    intended = case.intended_class or "any but its own"
    names = (("true class", case.true_class, INK), ("intended class", intended, POISONED))
    for line, (label, name, colour) in enumerate(names):
        y = TOP + 0.45 + 0.48 * line
        page.text(beside, y, label, color=MUTED)
        page.text(beside, y + 0.19, shorten(name, 26), fontsize=10, color=colour)


def _calls(page: _Page, case: CasePicture, x: float, y: float, victims: int) -> None:
    """The aligned list: a row a victim, poisoned and clean side by side."""
    sides = (("poisoned", case.poisoned, x + 0.6), ("clean", case.clean, x + 2.65))
    page.text(x, y, "victim", color=MUTED)
    for label, calls, left in sides:
        hits = sum(call.success for call in calls)
        page.text(left, y, f"{label}: {hits} of {len(calls)}", fontweight="bold")
    page.line(x, y + ROW * 0.6, LIST)
    for victim in range(victims):
        below = y + ROW * (victim + 1.2)
        page.text(x + 0.4, below, str(victim), ha="right", color=MUTED)
        for _, calls, left in sides:
            call = calls[victim]
            look = {"color": POISONED, "fontweight": "bold"} if call.success else {"color": INK}
            page.text(left, below, "●" if call.success else "○", **look)
            page.text(left + 0.17, below, shorten(call.name, 15), **look)
            page.text(left + 1.82, below, f"{call.probability:.2f}", ha="right", **look)
    below = y + ROW * (victims + 1.6)
    hidden = len(case.poisoned) - victims
    more = f" · {hidden} more victims not shown" if hidden else ""
    page.text(x, below, f"● as intended   ○ another   with the probability given{more}", fontsize=7, color=MUTED)
