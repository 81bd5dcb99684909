"""The steps of an attack without targets: a clean network is corrupted into the target parameters (but where the attack
names none), poisons are made for them, and victims are trained with them and without."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.step import Ref
from stages import assess, cancel, corrupt, export, retrain, tally
from stages.brew.attacks import Indiscriminate
from stages.brew.cancel.config import GradientCanceling
from stages.data.indiscriminate import IndiscriminateCases
from stages.stage import derive_seed

if TYPE_CHECKING:
    from pipeline.plan import Plan


def add(
    made: "Plan",
    attack: Indiscriminate,
    cases: IndiscriminateCases,
    dataset: Mapping[str, Ref],
    surrogate: Ref,
    victims: Sequence[retrain.Params],
) -> Ref:
    """Add an experiment's steps after its clean network's; the last one sums it up."""
    target = surrogate
    if isinstance(attack, GradientCanceling):
        corrupted = corrupt.Params(corruption=attack.corruption)
        target = made.add("corrupt", corrupted, "corrupt", {**dataset, "surrogate": surrogate})
    clean = _assessed(made, "clean", victims, dataset, {})
    summary = dict(dataset)
    for c in range(cases.count):
        params = cancel.Params(attack=attack, seed=derive_seed(cases.seed, "case", c))
        poisons = made.add("cancel", params, f"cancel case {c}", {**dataset, "target": target})
        laid = export.Params(eps=attack.eps, append=attack.mode == "add")
        overlay = made.add("export", laid, f"export case {c}", {**dataset, "poisons": poisons})
        poisoned = _assessed(made, f"case {c}", victims, dataset, {"overlay": overlay})
        summary |= {f"cancel.{c}": poisons, f"overlay.{c}": overlay}
        for kind, assessed in (("poisoned", poisoned), ("clean", clean)):
            summary |= {f"{kind}.{c}.{v}": ref for v, ref in enumerate(assessed)}
    counts = tally.Params(cases=cases.count, victims=len(victims))
    return made.add("tally", counts, "tally", summary)


def _assessed(
    made: "Plan", of: str, victims: Sequence[retrain.Params], dataset: Mapping[str, Ref], overlay: Mapping[str, Ref]
) -> list[Ref]:
    """The assessments of victims that are trained on the dataset, and what is laid over it."""
    found = []
    for v, params in enumerate(victims):
        victim = made.add("retrain", params, f"retrain {of} victim {v}", {**dataset, **overlay})
        found.append(made.add("assess", assess.Params(), f"assess {of} victim {v}", {**dataset, "victim": victim}))
    return found
