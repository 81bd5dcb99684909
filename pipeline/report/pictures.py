"""The gallery of a report: poisons, bases and changes as pictures, and what the victims call the targets."""

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.report.collect import CaseFound, Evaluation, VariantFound
from stages.case_figure import amplified
from stages.data.cases import of_class
from stages.gallery import png

PAGE_BYTES = 12_000_000
"""Most bytes of pictures in a page: of large images fewer poisons a case are shown."""
CASES = 24
"""Most cases of a variant whose pictures are shown."""
SQUARE = 64
"""Images of at most so many pixels a side are shown with square pixels."""


def gallery(variant: VariantFound, page_bytes: int) -> dict[str, Any]:
    """What the page shows of a variant's cases, in about `page_bytes`: `gallery`, and what it leaves out and why."""
    shown = [case for case in variant.cases if case.drawn is not None][:CASES]
    cases = [_case(case, variant.victims, page_bytes // max(1, len(shown))) for case in shown]
    hidden = len(variant.cases) - len(shown)
    more = f"{hidden} more cases are in the table below." if hidden and len(shown) == CASES else ""
    missing = ""
    if not variant.done:
        missing = "The pictures are made when the run is summed up, which it is not yet."
    elif not variant.told:
        missing = (
            "The run was summed up by an older brewline, without pictures for reports: run it again, which does that "
            "step alone anew, and report the run that this gives: it has a new name."
        )
    return {"gallery": cases, "more": more, "no_pictures": missing}


def _case(case: CaseFound, victims: int, room: int) -> dict[str, Any]:
    drawn, found = case.drawn or {}, case.gallery
    targets: list[dict[str, Any]] = []
    for index, identifier in enumerate(drawn["target_ids"]):
        pixels = found.targets[index] if found is not None and index < len(found.targets) else None
        calls = [
            {"victim": v, "poisoned": _call(case.poisoned.get(v), index), "clean": _call(case.clean.get(v), index)}
            for v in range(victims)
        ]
        alt = f"target: test image {identifier}, class {drawn['target_class']}"
        targets.append(
            {"id": identifier, "src": None if pixels is None else _url(png(pixels)), "alt": alt, "calls": calls}
        )
    told: dict[str, Any] = {"title": case.title, "targets": targets, "kind": "smooth", "poisons": [], "note": ""}
    if found is None:
        return told
    changes, factor, largest = amplified(found.base, found.poisons)
    poisons = _within(room, found.poison_ids, (found.base, found.poisons, changes))
    bound = case.made.get("eps") if case.made else None
    allowed = "" if bound is None else f", allowed {bound:g}/255"
    note = (
        f"{len(poisons)} of {drawn['poisons']} poisons, {of_class(drawn['poison_class'])}. Largest change of these "
        f"{largest}/255{allowed}; the change is shown × {factor}, and grey is none."
    )
    kind = "square" if max(found.base.shape[1:3]) <= SQUARE else "smooth"
    return told | {"poisons": poisons, "note": note, "factor": factor, "kind": kind}


def _within(room: int, ids: Sequence[int], rows: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The first poisons whose pictures fit; one at least."""
    poisons: list[dict[str, Any]] = []
    for index, identifier in enumerate(ids):
        pictures = [png(row[index]) for row in rows]
        room -= sum(map(len, pictures))
        if poisons and room < 0:
            break
        base, poison, change = map(_url, pictures)
        poisons.append({"id": identifier, "base": base, "poison": poison, "change": change})
    return poisons


def _call(evaluation: Evaluation | None, target: int) -> dict[str, Any] | None:
    if evaluation is None:
        return None
    told = evaluation["targets"][target]
    return {"name": told["prediction_name"], "p": f"{told['p_prediction']:.2f}", "success": told["success"]}


def _url(data: bytes) -> str:
    return "data:image/png;base64," + b64encode(data).decode()
