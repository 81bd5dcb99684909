"""The files of a sweep, written by hand: no trial of it ever ran."""

import json
import math
from typing import Any

import yaml

from pipeline.experiment_file import load_experiments
from pipeline.store import Store

SPACE = {
    "attack.eps": {"grid": [4, 8, 16]},
    "attack.budget": {"grid": [0.01, 0.02, 0.05]},
    "attack.objective": {"choice": ["cosine"]},
}
IMPORTANCE = {"attack.eps": 0.7, "attack.budget": 0.25, "attack.objective": 0.05}


def write(store: Store, name: str, trials: list[dict[str, Any]], **spec: Any) -> None:
    """Bring a sweep with these trials into a store, as `brewline sweep` leaves it."""
    asked = {
        "name": name,
        "description": "Success <against> eps & budget",
        "experiment": "quickstart",
        "space": SPACE,
        "metrics": [{"name": "poison_success", "mode": "max"}, {"name": "poisoned_accuracy", "mode": "max"}],
        **spec,
    }
    base = load_experiments("quickstart")[""].model_dump(mode="json")
    store.write_run(name, "sweep.yaml", yaml.safe_dump({"sweep": asked, "base": base}, sort_keys=False).encode())
    events = [{"event": "suggested", "number": one["number"], "settings": one["settings"]} for one in trials]
    events += [{"event": "ended", **one} for one in trials if one["state"] != "running"]
    store.append_run(name, "trials.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    store.write_run(
        name,
        "sweep.json",
        json.dumps({"importance": IMPORTANCE if len(trials) > 8 else None, "steps": 360, "steps_saved": 93}).encode(),
    )


def trial(number: int, eps: float, budget: float, **fields: Any) -> dict[str, Any]:
    """One trial, whose success grows with both and whose accuracy falls."""
    success = 1 - math.exp(-eps * budget * 8)
    return {
        "number": number,
        "run": f"eps-and-budget-{number:08x}",
        "settings": {"attack.eps": eps, "attack.budget": budget, "attack.objective": "cosine"},
        "state": "done",
        "cases": 6,
        "figures": {
            "poison_success": success,
            "poison_success_se": 0.06,
            "clean_success": 0.0,
            "clean_success_se": 0.0,
            "poisoned_accuracy": 0.95 - budget / 2 - 0.001 * eps,
        },
        "seconds": 12.5,
        "why": "",
        "steps": 40,
        "ran": 9,
        **fields,
    }
