"""A sweep's page says what was asked, which trials are best, what the settings do, and what is not done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from handmade_sweep import trial, write
from pipeline.report.page import PAGE
from pipeline.report.sweep import SweepFound, collect_sweep
from pipeline.report.sweep_charts import of_sweep
from pipeline.report.sweep_page import sweep_report
from pipeline.store import Store, StoreError, open_store
from pipeline.sweep.base import Sweep
from pipeline.sweep.trials import is_sweep
from stages import figures
from stages.config import InputError

NAME = "eps-and-budget"
Found = Callable[..., SweepFound]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """What is known of a sweep with these trials."""

    def of(trials: list[dict[str, Any]], **spec: Any) -> SweepFound:
        store = open_store(tmp_path / "store")
        write(store, NAME, trials, **spec)
        return collect_sweep(store, NAME)

    return of


def heights(panel: Any) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in panel.lines if not line.get_label().startswith("_")}


def test_every_number_that_was_swept_has_a_chart(swept: Store) -> None:
    sweep = collect_sweep(swept, NAME)
    assert sweep.axes() == ["attack.eps", "attack.budget"]
    assert sweep.split("attack.eps") == ("attack.budget", None)
    names = ["poison-success-against-attack-eps", "poison-success-against-attack-budget", "pareto", "importance"]
    assert [chart.name for chart in of_sweep(sweep)] == names
    drawn = of_sweep(sweep)[0].draw(figures.WIDE)
    (panel,) = drawn.axes
    trials = {tuple(one.settings.values())[:2]: one.figures["poison_success"] for one in sweep.measured()}
    assert heights(panel)["attack.budget 0.05"] == [trials[eps, 0.05] for eps in (4, 8, 16)]
    assert set(heights(panel)["clean victims, mean"]) == {0.0}
    assert panel.get_xlabel() == "attack.eps (of 255)" and len(panel.containers) == 9  # a bar a trial


def test_a_third_field_has_a_panel_for_each_value(found: Found) -> None:
    trials = []
    for number, (eps, budget, steps) in enumerate((e, b, s) for e in (4, 8) for b in (0.01, 0.02) for s in ("a", "b")):
        one = trial(number, eps, budget)
        one["settings"]["attack.objective"] = steps
        trials.append(one)
    sweep = found(trials)
    assert sweep.split("attack.eps") == ("attack.budget", "attack.objective")
    panels = of_sweep(sweep)[0].draw(figures.NARROW).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["attack.objective\na", "attack.objective\nb"]
    assert all(len(panel.containers) == 4 for panel in panels)


def test_trials_that_share_a_place_are_averaged(found: Found) -> None:
    sweep = found([trial(0, 4, 0.01), trial(1, 4, 0.02), trial(2, 8, 0.01), trial(3, 8, 0.02), trial(4, 8, 0.02)])
    panel = of_sweep(sweep)[0].draw(figures.WIDE).axes[0]
    both = [sweep.trials[number].figures["poison_success"] for number in (3, 4)]
    assert heights(panel)["attack.budget 0.02"][1] == pytest.approx(sum(both) / 2)  # type: ignore[arg-type]


def test_a_trial_that_was_stopped_is_drawn_as_that(found: Found) -> None:
    sweep = found([trial(0, 4, 0.01), trial(1, 8, 0.01), trial(2, 16, 0.01, state="stopped", cases=1)])
    panel = of_sweep(sweep)[0].draw(figures.WIDE).axes[0]
    early = sweep.trials[2].figures["poison_success"]
    assert heights(panel)["stopped early, of some cases"] == [early]
    assert early not in heights(panel)["a trial"]


def test_the_page_names_the_best_and_every_trial(swept: Store) -> None:
    sweep = collect_sweep(swept, NAME)
    made = sweep_report(sweep)
    text = made.files[PAGE].decode()
    assert "Success &lt;against&gt; eps &amp; budget" in text
    assert "<strong>Trial 8</strong>, poison success 99.8 ± 6.0 %" in text
    assert ">93<" in text and "of 360: trials share them" in text
    assert "brew case 0 restart 1: B is nan at step 3" in text
    assert "The sweep is not finished." in text and "1 trial failed." in text
    assert all(f"eps-and-budget-{number:08x}" in text for number in range(9))
    assert "figures/pareto.png" in made.files
    assert sweep_report(collect_sweep(swept, NAME)).files == made.files


def test_its_file_gives_the_same_sweep(tmp_path: Path, swept: Store) -> None:
    for name, data in sweep_report(collect_sweep(swept, NAME)).files.items():
        if name.endswith(".yaml"):
            (tmp_path / name).write_bytes(data)
    changed = {
        "name": NAME,
        "experiment": "quickstart",
        **{name: yaml.safe_load((tmp_path / f"{NAME}.yaml").read_text())[name] for name in ("space", "metrics")},
    }
    (tmp_path / "by-name.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    assert Sweep.load(tmp_path / f"{NAME}.yaml").name == Sweep.load(tmp_path / "by-name.yaml").name


def test_a_sweep_without_a_result_yet_has_a_page(found: Found) -> None:
    text = sweep_report(found([trial(0, 8, 0.01, state="running", figures={})])).files[PAGE].decode()
    assert "There is nothing to draw yet" in text and "The sweep is not finished." in text


def test_trials_that_are_all_the_same_have_no_best(found: Found) -> None:
    same = {"poison_success": 0.0, "poisoned_accuracy": 0.9}
    text = sweep_report(found([trial(0, 4, 0.01, figures=same), trial(1, 8, 0.01, figures=same)])).files[PAGE].decode()
    assert "All 2 came to the same poison success" in text


def test_words_and_random_numbers_are_charted_too(found: Found) -> None:
    trials = [trial(number, 4 + number / 7, 0.01 + number / 1000) for number in range(12)]
    sweep = found(trials)
    assert sweep.split("attack.eps") == (None, None)  # no field has few values
    panel = of_sweep(sweep)[0].draw(figures.NARROW).axes[0]
    assert len(panel.containers) == 12


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("sweep.yaml", "sweep: {name: a, format: 2}", "Input should be 1"),
        ("sweep.yaml", "{", "while parsing"),
        ("sweep.yaml", "a: b", "sweep"),
        ("trials.jsonl", '{"event": "ended", "number": 77}', "out of range"),
        ("sweep.json", "{", "Expecting"),
    ],
)
def test_a_damaged_file_is_told(file: str, content: str, told: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    write(store, NAME, [trial(0, 8, 0.01)])
    store.write_run(NAME, file, content.encode())
    with pytest.raises((InputError, StoreError), match=told):
        collect_sweep(store, NAME)


def test_what_is_no_sweep_is_none(two_variants: Any) -> None:
    store = open_store(two_variants.store)
    assert not is_sweep(store, two_variants.run) and not is_sweep(store, "nothing")
