"""What a trial is judged by, from the manifests of its steps, over all of its cases or the first of them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pipeline.cost.rates import taken_of
from pipeline.needs import needed_steps
from pipeline.plan import Plan
from pipeline.step import Ref, Step
from pipeline.store import Manifest, Store
from pipeline.sweep.spec import Ends
from stages.summarize import mean_and_error

Figures = dict[str, float | None]
"""Metrics of `spec.METRICS`, and the standard errors over cases of those that have one, as `<name>_se`."""

EVALUATED = {
    "poison_success": ("poisoned", "success"),
    "clean_success": ("clean", "success"),
    "poisoned_accuracy": ("poisoned", "accuracy"),
    "clean_accuracy": ("clean", "accuracy"),
}
"""A metric -> the evaluations that it is over, and which of their figures."""


def first_cases(plan: Plan, cases: int, ends: Ends) -> Plan:
    """The part of a plan that gives the first cases' evaluations, or their poisons alone: the same steps."""
    inputs = _summary(plan).inputs
    return Plan(plan.name, plan.steps, {role: inputs[role] for role in roles(inputs, cases, ends)})


def roles(inputs: Iterable[str], cases: int, ends: Ends) -> list[str]:
    """Those of a summary's inputs that give the first cases' evaluations, or their poisons alone."""
    wanted = ("poisoned", "clean") if ends == "cases" else ("overlay",)
    return [role for role in inputs if _is_of(role, wanted, cases)]


def cases_of(plan: Plan) -> int:
    """How many cases a plan of one experiment has."""
    return sum(role.startswith("overlay.") for role in _summary(plan).inputs)


def figures(plan: Plan, part: Plan, store: Store, cases: int) -> Figures:
    """The metrics of what `part` of the plan has given, over its first cases; one that it does not have is left out.

    A rate is the mean over cases of the mean over victims, as in the summary. gpu_seconds and step_seconds are what the
    steps took, whichever trial or run they were computed for.
    """
    steps = [plan.steps[key] for key in needed_steps(part, set())]
    done = {found.key: found for found, _ in store.look((step.stage, step.key) for step in steps)}
    inputs, found = _summary(plan).inputs, Figures()
    for name, (kind, figure) in EVALUATED.items():
        values = [_mean(_of(inputs, kind, case), figure, done) for case in range(cases)]
        _add(found, name, values)
    overlays = [plan.steps[inputs[f"overlay.{case}"].key] for case in range(cases)]
    brews = [
        _mean([overlay.inputs["poisons"]], "brew_loss", done) for overlay in overlays if "poisons" in overlay.inputs
    ]
    _add(found, "brew_loss", brews)
    surrogates = [step.ref for step in steps if step.stage == "pretrain"]
    found["validation_accuracy"] = _mean(surrogates, "validation_accuracy", done)
    found["step_seconds"] = sum(manifest.provenance["seconds"] for manifest in done.values())
    found["gpu_seconds"] = gpu_seconds(done.values())
    return {name: value for name, value in found.items() if value is not None}


def gpu_seconds(manifests: Iterable[Manifest]) -> float:
    """Seconds that steps had GPUs for, times their number."""
    taken = ((found.provenance["seconds"], taken_of(found.provenance)) for found in manifests)
    return sum(seconds * demand.gpus * demand.workers for seconds, demand in taken)


def _summary(plan: Plan) -> Step:
    (ref,) = plan.summaries.values()
    return plan.steps[ref.key]


def _is_of(role: str, kinds: Sequence[str], cases: int) -> bool:
    kind, _, rest = role.partition(".")
    return kind in kinds and int(rest.partition(".")[0]) < cases


def _of(inputs: Mapping[str, Ref], kind: str, case: int) -> list[Ref]:
    return [ref for role, ref in inputs.items() if role.startswith(f"{kind}.{case}.")]


def _mean(refs: Sequence[Ref], figure: str, done: Mapping[str, Manifest]) -> float | None:
    values = [done[ref.key].metrics.get(figure) if ref.key in done else None for ref in refs]
    known = [float(value) for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _add(found: Figures, name: str, values: Sequence[float | None]) -> None:
    known = [value for value in values if value is not None]
    if known and len(known) == len(values):
        spread = mean_and_error(known)
        found[name], found[f"{name}_se"] = spread["mean"], spread["se"]
