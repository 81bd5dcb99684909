"""The table of trials as CSV holds what the trials were given, to the last digit."""

import csv
import io
import json

from pipeline.sweep.spec import Spec
from pipeline.sweep.tables import as_csv
from pipeline.sweep.trials import Trial


def test_settings_are_read_back_as_they_were() -> None:
    space = {"rate": {"choice": [0.0123456789]}, "epochs": {"choice": [[1, 2]]}, "how": {"choice": ["two-sided"]}}
    space["attack"] = {"choice": [{"kind": "external", "eps": None}]}
    spec = Spec.model_validate({"name": "a", "experiment": "b", "space": space | {"left out": {"choice": [1]}}})
    settings = {path: parameter["choice"][0] for path, parameter in space.items()}
    (row,) = csv.DictReader(io.StringIO(as_csv(spec, [Trial(0, settings, "done", figures={"brew_loss": 1 / 3})])))
    assert row["how"] == settings.pop("how") and row["left out"] == ""
    assert {path: json.loads(row[path]) for path in settings} == settings
    assert float(row["brew_loss"]) == 1 / 3
