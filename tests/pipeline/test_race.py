"""A race through the store, step by step and without Ray, beside the same restarts unraced."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import runs
from pipeline.cost.rates import samples
from pipeline.execute import execute
from pipeline.experiment import Experiment
from pipeline.experiment_file import parse
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.report.collect import collect
from pipeline.report.page import PAGE, report
from pipeline.sizes import sizes
from pipeline.step import Step
from pipeline.store import Manifest, Store, open_store
from stages.stage import Runtime
from tiny_pipeline import TINY

ATTACK = TINY["attack"] | {"restarts": 4, "steps": 6}


class Run(NamedTuple):
    """Both variants, and what each step left."""

    experiments: Mapping[str, Experiment]
    plan: Plan
    store: Store
    manifests: Mapping[str, Manifest]

    def of(self, variant: str, stage: str) -> dict[str, Step]:
        """A variant's steps of a stage, by label."""
        own = self.plan.variants.items()
        steps = [self.plan.steps[key] for key, of in own if of == variant]
        return {step.label: step for step in steps if step.stage == stage}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    race = {"full": None, "raced": {"at": [2, 4]}}
    experiments = {name: parse(TINY | {"attack": ATTACK | {"race": how}}, name) for name, how in race.items()}
    plan, store = plan_of(experiments), open_store(tmp_path_factory.mktemp("race") / "store")
    done = {key: execute(step, store, Runtime(device="cpu")) for key, step in plan.steps.items()}
    return Run(experiments, plan, store, done)


def blobs(manifest: Manifest) -> dict[str, Any]:
    return {blob.name: blob for blob in manifest.blobs}


def test_what_a_race_chooses_is_that_restart_unraced(run: Run) -> None:
    (select,) = run.of("raced", "select").values()
    chosen = run.manifests[select.key]
    restart = run.of("full", "brew")[f"brew case 0 restart {chosen.metrics['chosen']}"]
    whole = run.manifests[restart.key]
    assert blobs(chosen) == {name: blob for name, blob in blobs(whole).items() if name.startswith("poisons")}
    assert chosen.metrics["brew_loss"] == whole.metrics["brew_loss"]
    assert len(chosen.metrics["brew_losses"]) == 1


def test_the_run_sums_up_a_race(run: Run, tmp_path: Path) -> None:
    for variant in ("full", "raced"):
        manifest = run.manifests[run.plan.summaries[variant].key]
        run.store.fetch(manifest, tmp_path / variant)
        assert (tmp_path / variant / "brew-loss.png").stat().st_size > 1000
    (case,) = json.loads((tmp_path / "raced" / "summary.json").read_text())["cases"]
    (select,) = run.of("raced", "select").values()
    assert case["brew_loss"] == run.manifests[select.key].metrics["brew_loss"]


def test_a_report_shows_how_far_each_restart_came(run: Run) -> None:
    runs.record(run.store, run.plan, run.experiments)
    found = collect(run.store, run.plan.run)
    (full,), (raced,) = (variant.cases for variant in found.variants)
    assert sorted(map(len, raced.restarts.values())) == [2, 2, 4, 6]
    for restart, losses in raced.restarts.items():
        assert losses == full.restarts[restart][: len(losses)], "each is the restart that it would have been"
    assert raced.chosen is not None and len(raced.restarts[raced.chosen]) == 6
    (select,) = run.of("raced", "select").values()
    assert run.manifests[select.key].metrics["brew_loss"] == raced.B
    made = report([found])
    page = made.files[PAGE].decode()
    assert all(label in page for label in run.of("raced", "brew"))
    assert f"{raced.B:.4f}" in page
    assert "figures/raced/brew-loss.svg" in made.files


def test_the_state_between_legs_is_as_large_as_planned(run: Run) -> None:
    planned = sizes(run.plan, run.experiments)
    for key, step in run.plan.steps.items():
        if "checkpoint.safetensors" in blobs(run.manifests[key]):
            assert step.stage == "brew"
            assert planned[key] == pytest.approx(blobs(run.manifests[key])["checkpoint.safetensors"].size, abs=1000)
            assert planned[key] > 10_000
    on_their_way = [key for key, manifest in run.manifests.items() if "checkpoint.safetensors" in blobs(manifest)]
    assert len(on_their_way) == 4 + 2


def test_the_steps_of_a_leg_are_of_one_kind(run: Run) -> None:
    kinds: dict[str, int] = {}
    for sample in samples(run.store):
        if sample.kind.stage == "brew":
            name = f"{sample.kind.params!r} {sample.kind.work}"
            kinds[name] = kinds.get(name, 0) + 1
    assert sorted(kinds.values()) == [1, 2, 4, 4], "two legs and the last one, and the restarts that are not raced"
