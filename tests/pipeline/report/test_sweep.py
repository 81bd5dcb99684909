"""A sweep's page says which trials are best, what the settings do, and what is not done."""

import json
from typing import Any

import pytest

from handmade_sweep import sweep_of, trial
from pipeline.report.page import PAGE
from pipeline.report.sweep import Sweep, axes, lines, read_sweep
from pipeline.report.sweep_charts import of_sweep
from pipeline.report.sweep_page import sweep_report
from pipeline.store import Store, StoreError, open_store
from stages import figures


def test_every_number_that_was_swept_has_a_chart(sweep: dict[str, Any]) -> None:
    found = Sweep.model_validate(sweep)
    assert axes(found) == ["attack.eps", "attack.budget"]
    assert lines(found, "attack.eps") == ("attack.budget", [0.01, 0.02, 0.05])
    assert [chart.name for chart in of_sweep(found)] == [
        "against-attack-eps",
        "against-attack-budget",
        "pareto",
        "importance",
    ]
    drawn = of_sweep(found)[0].draw(figures.WIDE)
    (panel,) = drawn.axes
    curves = [line for line in panel.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 1]
    assert [list(line.get_xdata()) for line in curves] == [[4, 8, 16]] * 3
    heights = {line.get_label(): list(line.get_ydata()) for line in curves}
    trials = {tuple(one.settings.values())[:2]: one.metrics["poison_success"] for one in found.measured()}
    assert heights["attack.budget 0.05"] == [trials[eps, 0.05] for eps in (4, 8, 16)]


def test_trials_that_share_a_place_are_averaged() -> None:
    found = Sweep.model_validate(
        sweep_of([trial(0, 4, 0.01), trial(1, 4, 0.02), trial(2, 8, 0.01), trial(3, 8, 0.02), trial(4, 8, 0.02)])
    )
    panel = of_sweep(found)[0].draw(figures.WIDE).axes[0]
    means = {line.get_label(): list(line.get_ydata()) for line in panel.lines}
    both = [found.trials[number].metrics["poison_success"] for number in (3, 4)]
    assert means["attack.budget 0.02"][1] == pytest.approx(sum(both) / 2)


def test_the_front_is_what_no_trial_beats() -> None:
    places = [(0.2, 0.9), (0.5, 0.8), (0.4, 0.7), (0.9, 0.5), (0.9, 0.4)]
    trials = [
        trial(number, number, 0.01, metrics={"poison_success": one, "poisoned_accuracy": two})
        for number, (one, two) in enumerate(places)
    ]
    found = Sweep.model_validate(sweep_of(trials))
    assert [one.number for one in found.front()] == [0, 1, 3]
    less = [{"name": "poison_success", "mode": "min"}, {"name": "poisoned_accuracy", "mode": "max"}]
    assert [one.number for one in Sweep.model_validate(sweep_of(trials, metrics=less)).front()] == [0]


def test_the_page_names_the_best_and_every_trial(swept: Store) -> None:
    made = sweep_report(read_sweep(swept, "eps-and-budget"), "eps-and-budget", swept.url)
    text = made.files[PAGE].decode()
    assert "Trial 8" in text and "99.8 ± 6.0 %" in text and ">93<" in text
    assert "brew case 0 restart 1: B is nan at step 3" in text
    assert "The sweep is not finished." in text and "1 trial failed." in text
    assert all(f"eps-and-budget-{number:08x}" in text for number in range(9))
    assert "figures/pareto.png" in made.files
    assert sweep_report(read_sweep(swept, "eps-and-budget"), "eps-and-budget", swept.url).files == made.files


def test_a_sweep_without_a_result_yet_has_a_page() -> None:
    running = trial(0, 8, 0.01, state="running", metrics={})
    found = Sweep.model_validate(sweep_of([running], best=[], importance=None))
    text = sweep_report(found, "eps-and-budget", "store").files[PAGE].decode()
    assert "There is nothing to draw yet" in text


def test_words_and_random_numbers_are_charted_too() -> None:
    trials = [trial(number, 4 + number / 7, 0.01) for number in range(12)]
    for number, one in enumerate(trials):
        one["settings"] = {"attack.eps": 4 + number / 7, "attack.budget": 0.01 + number / 1000}
    found = Sweep.model_validate(sweep_of(trials))
    assert lines(found, "attack.eps") == (None, ())  # no field has few values
    panel = of_sweep(found)[0].draw(figures.NARROW).axes[0]
    assert len(panel.containers) == 12


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format: Input should be 1"),
        ({"trials": [{"number": 0}]}, "trials.0.settings: Field required"),
        ({"metrics": []}, "metrics: "),
    ],
)
def test_a_damaged_file_is_told(change, told, sweep, tmp_path) -> None:
    store = open_store(tmp_path / "store")
    store.write_run("eps-and-budget", "sweep.json", json.dumps(sweep | change).encode())
    with pytest.raises(StoreError, match=told):
        read_sweep(store, "eps-and-budget")


def test_what_is_no_sweep_is_none(two_variants) -> None:
    store = open_store(two_variants.store)
    assert read_sweep(store, two_variants.run) is None and read_sweep(store, "nothing") is None
