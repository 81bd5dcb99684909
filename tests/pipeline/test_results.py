"""Results are kept whole, the committed page is what the committed files give, and variants are compared in pairs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment import parse
from pipeline.report import comparison
from pipeline.results import add, page
from pipeline.store import open_store
from stages.config import InputError

RESULTS = Path(__file__).parents[2] / "results"


def test_the_page_is_what_the_files_give() -> None:
    assert (RESULTS / "README.md").read_text() == page(RESULTS), "run `brewline results tables`"


def test_every_result_says_how_to_run_it_again() -> None:
    files = sorted(RESULTS.glob("*.json"))
    assert files
    for file in files:
        result = json.loads(file.read_text())
        assert result["name"] == file.stem
        for variant, figures in result["variants"].items():
            parse(figures["experiment"], f"{file}, variant {variant}")
            assert figures["summary"]["poison_success"]["cases"] == len(figures["cases"])
            assert {"poison_success", "clean_success"} <= set(figures["summary"])
        assert {"hardware", "commit", "torch", "python", "step_seconds"} <= set(result["provenance"])


def test_a_finished_run_is_kept_with_its_experiment(finished: Any, tmp_path: Path) -> None:
    file = add(open_store(str(finished.store)), finished.result["run"], "tiny", tmp_path)
    result = json.loads(file.read_text())
    kept = result["variants"][""]
    assert (kept["cases"], kept["summary"]) == (finished.result["cases"], finished.result["summary"])
    assert kept["experiment"]["attack"]["eps"] == 32
    assert result["provenance"]["steps"] == finished.result["steps"]["total"]
    text = page(tmp_path)
    assert "## tiny" in text
    assert f"{100 * kept['summary']['poisoned_accuracy']['mean']:.1f}" in text


def test_an_unfinished_run_is_not_kept(finished: Any, tmp_path: Path) -> None:
    store = open_store(shutil.copytree(finished.store, tmp_path / "store").as_posix())
    (summary,) = store.manifests("summarize")
    store.remove("summarize", summary.key)
    with pytest.raises(InputError, match="is not finished: summarize is not in"):
        add(store, finished.result["run"], "tiny", tmp_path)
    with pytest.raises(InputError, match="no run 'tinny'"):
        add(store, "tinny", "tiny", tmp_path)


def figures(*successes: float, losses: tuple[float, ...] = (0.1, 0.3), target: int = 0) -> dict[str, Any]:
    cases = [
        {"target_ids": [target + number], "intended_class": "7", "poisons": 9, "success": success, "brew_loss": loss}
        for number, (success, loss) in enumerate(zip(successes, losses, strict=True))
    ]
    rates = {"mean": sum(successes) / len(successes), "se": 0.25, "cases": len(cases), "victims": 4}
    names = ("poison_success", "clean_success", "poisoned_accuracy", "clean_accuracy")
    return {"cases": cases, "summary": dict.fromkeys(names, rates)}


def test_variants_with_the_same_cases_are_compared_in_pairs() -> None:
    two = figures(0.0, 0.75, losses=(0.3, 0.4))
    lines = comparison({"one": figures(0.5, 1.0), "two": two}).splitlines()
    assert lines[0].endswith("success less the first's")
    assert lines[2].split()[:4] == ["one", "0.2000", "±", "0.1000"]
    assert lines[2].endswith("75.0 ± 25.0 %")
    # the mean and sd/√2 of 0.2 and 0.1, and of -50 and -25 points
    assert lines[3].split()[-6:] == ["+0.1500", "±", "0.0500", "-37.5", "±", "12.5"]


def test_variants_with_other_cases_are_not() -> None:
    table = comparison({"one": figures(0.5, 1.0), "two": figures(0.0, 0.75, target=5)})
    assert "less" not in table
    assert "less" not in comparison({"one": figures(0.5, 1.0)})


def test_variants_without_a_loss_are_compared_by_what_they_have() -> None:
    ours, theirs = figures(0.5, 1.0), figures(0.0, 0.75)
    for case in theirs["cases"]:
        case["brew_loss"] = None
    lines = comparison({"ours": ours, "theirs": theirs}).splitlines()
    assert lines[3].split()[:2] == ["theirs", "-"]
    assert lines[3].split()[-4:] == ["-", "-37.5", "±", "12.5"]
