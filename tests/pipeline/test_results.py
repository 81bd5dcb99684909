"""Results are kept whole, the committed page is what the committed files give, and variants are compared in pairs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment_file import parse
from pipeline.report.comparison import comparison
from pipeline.results import add, page
from pipeline.store import open_store
from pipeline.sweep.spec import Spec
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
        for sweep in result.get("sweeps", ()):
            Spec.model_validate(sweep["spec"])
            parse(sweep["base"], f"{file}, base of {sweep['sweep']}")
        for variant, figures in result.get("variants", {}).items():
            parse(figures["experiment"], f"{file}, variant {variant}")
            assert figures["summary"]["poison_success"]["cases"] == len(figures["cases"])
            assert {"poison_success", "clean_success"} <= set(figures["summary"])
        assert {"hardware", "commit", "torch", "python", "step_seconds"} <= set(result["provenance"])


def test_a_finished_run_is_kept_with_its_experiment(finished: Any, tmp_path: Path) -> None:
    file = add(open_store(str(finished.store)), [finished.result["run"]], "tiny", tmp_path)
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
        add(store, [finished.result["run"]], "tiny", tmp_path)
    with pytest.raises(InputError, match="no run and no sweep 'tinny'"):
        add(store, ["tinny"], "tiny", tmp_path)


@pytest.fixture
def kept(finished: Any, tmp_path: Path) -> Path:
    """The tiny run's result, in a folder of its own."""
    return add(open_store(str(finished.store)), [finished.result["run"]], "tiny", tmp_path)


def change(file: Path, path: str, value: Any) -> None:
    """Put a value at `path` in a JSON file; `...` takes the field out."""
    data = json.loads(file.read_text())
    *parents, last = path.split("/")
    place = data
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("variants//cases/0/success", 1.5, "variants..cases.0.success: .* less than or equal to 1, found 1.5"),
        ("variants//cases/0/brew_los", 1, "unknown field 'brew_los', did you mean 'brew_loss'"),
        ("variants//cases", [], "variants..cases: "),
        ("variants//summary/poison_success/mean", 0.123, "summary.poison_success.mean is 0.123, and that of the cases"),
        ("variants//summary/clean_success", ..., "summary lacks clean_success"),
        ("variants", {}, "variants: "),
        ("run", ..., "run: Field required"),
        ("name", "tinny", "its name is 'tinny'"),
    ],
)
def test_a_broken_file_is_told_by_field(kept: Path, path: str, value: Any, told: str) -> None:
    change(kept, path, value)
    with pytest.raises(InputError, match=f"(?s){kept.name}.*{told}"):
        page(kept.parent)


def test_a_file_that_was_cut_short_is_told(kept: Path) -> None:
    kept.write_text(kept.read_text()[:-40])
    with pytest.raises(InputError, match=f"{kept.name} cannot be read as JSON"):
        page(kept.parent)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("provenance/commit", "0123abc-dirty", "**made from uncommitted changes**"),
        ("provenance/commit", ["0123abc", "4567def"], "**made from 2 commits**"),
        ("provenance/commit", ..., "**of an unknown commit**"),
        ("provenance/commit", ["a1", "unknown"], "**in part of an unknown commit**"),
        ("provenance", None, "**nobody knows what made it**"),
    ],
)
def test_what_may_not_come_out_again_is_marked(kept: Path, path: str, value: Any, told: str) -> None:
    change(kept, "provenance/commit", "0123abc")
    assert "**" not in page(kept.parent).partition("## tiny")[2]
    change(kept, path, value)
    assert told in page(kept.parent)


def test_the_papers_figure_stands_beside_ours(kept: Path) -> None:
    assert "the paper" not in page(kept.parent)
    change(kept, "variants//experiment/paper_success", 0.9)
    head, _, row = page(kept.parent).partition("```\n")[2].splitlines()[:3]
    assert head.endswith("the paper") and row.endswith("90 %")


def test_a_result_needs_a_folder_and_a_name(finished: Any, tmp_path: Path) -> None:
    store = open_store(str(finished.store))
    with pytest.raises(InputError, match="there is no such folder"):
        add(store, [finished.result["run"]], "tiny", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"(?s)result \.\./tiny of run.*name"):
        add(store, [finished.result["run"]], "../tiny", tmp_path)
    assert not list(tmp_path.iterdir())


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
