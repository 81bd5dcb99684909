"""The file of a sweep, written by hand: no trial of it ever ran."""

import math
from typing import Any


def sweep_of(trials: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """A sweep's file with these trials."""
    metrics = [{"name": "poison_success", "mode": "max"}, {"name": "poisoned_accuracy", "mode": "max"}]
    return {
        "format": 1,
        "name": "eps-and-budget",
        "spec": {"name": "eps-and-budget", "experiment": "quickstart", "fields": {"attack.eps": [4, 8, 16]}},
        "metrics": metrics,
        "trials": trials,
        "best": [8],
        "importance": {"attack.eps": 0.7, "attack.budget": 0.25, "attack.objective": 0.05},
        "steps_saved": 93,
        **fields,
    }


def trial(number: int, eps: float, budget: float, **fields: Any) -> dict[str, Any]:
    """One trial, whose success grows with both and whose accuracy falls."""
    success = 1 - math.exp(-eps * budget * 8)
    return {
        "number": number,
        "run": f"eps-and-budget-{number:08x}",
        "settings": {"attack.eps": eps, "attack.budget": budget, "attack.objective": "cosine"},
        "state": "done",
        "metrics": {
            "poison_success": success,
            "poison_success_se": 0.06,
            "clean_success": 0.0,
            "clean_success_se": 0.0,
            "poisoned_accuracy": 0.95 - budget / 2 - 0.001 * eps,
        },
        "seconds": 12.5,
        "why": "",
        "steps": 40,
        "steps_shared": 31,
        **fields,
    }
