"""A run of two cases in the stages' own formats, with figures chosen so that every statistic is known by hand."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from stages import export, figures, gallery, summarize
from stages.config import InputError
from stages.data.cases import Case, load_case, save_case
from stages.shards import base_shards, overlay, poisons
from stages.shards.poisons import PoisonSet
from stages.stage import Checkpoint, Context, Runtime
from stages.summarize import Params, mean_and_error, rate

EPS = 24


def evaluation(success, accuracy, prediction, p_intended):
    target = {
        "prediction_name": prediction,
        "success": bool(success),
        "p_prediction": 0.9,
        "p_intended": p_intended,
    }
    curves = {"epochs": [1, 2, 3], "adversarial_loss": [3.0, 2.0, 1.0 - success], "p_intended": [0.1, 0.2, p_intended]}
    return {"targets": [target], "success": float(success), "accuracy": accuracy, "curves": curves}


POISONED = [
    [evaluation(1, 0.90, "7", 0.8), evaluation(1, 0.92, "7", 0.6)],
    [evaluation(1, 0.94, "1", 0.7), evaluation(0, 0.96, "9", 0.1)],
]
CLEAN = [
    [evaluation(0, 0.95, "4", 0.1), evaluation(0, 0.97, "4", 0.2)],
    [evaluation(0, 0.95, "8", 0.0), evaluation(1, 0.97, "1", 0.4)],
]


@pytest.fixture
def inputs(digits_folder, tmp_path):
    dataset = base_shards.load(digits_folder)
    folders = {"dataset": digits_folder}

    def folder(role):
        folders[role] = tmp_path / role
        folders[role].mkdir()
        return folders[role]

    for c, (target, intended) in enumerate([(4, 7), (8, 1)]):
        base = dataset.train.of(np.flatnonzero(dataset.train.labels == intended)[: 12 - 6 * c])
        images = np.clip(base.images.astype(int) + (EPS - c), 0, 255).astype(np.uint8)
        case = Case(
            name=f"{c}",
            target_class=target,
            intended_class=intended,
            poison_class=intended,
            target_ids=(int(np.flatnonzero(dataset.test.labels == target)[c]),),
            poison_ids=tuple(base.ids.tolist()),
            seed=c,
        )
        save_case(case, folder(f"case.{c}"))
        for r in range(3):
            losses = {"losses": [1.0, 0.5, 0.25 + 0.1 * r]}
            (folder(f"brew.{c}.{r}") / "brew.json").write_text(json.dumps(losses))
        info = {"brew_loss": 0.25 + 0.5 * c, "restart": 0}
        poisons.save(PoisonSet(base.ids, images, base.labels, info), folder(f"select.{c}"))
        chosen = {"dataset": digits_folder, "poisons": folders[f"select.{c}"]}
        export.run(export.Params(eps=EPS), chosen, folder(f"overlay.{c}"), Context(0, Runtime(), Checkpoint(tmp_path)))
        for kind, all_of_them in (("poisoned", POISONED), ("clean", CLEAN)):
            for v, found in enumerate(all_of_them[c]):
                (folder(f"{kind}.{c}.{v}") / "evaluation.json").write_text(json.dumps(found))
    return folders


def run(inputs, folder, cases=2):
    folder.mkdir()
    ctx = Context(0, Runtime(), Checkpoint(folder))
    return summarize.run(Params(cases=cases, victims=2, restarts=3), inputs, folder, ctx)


def test_the_statistics(inputs, tmp_path):
    metrics = run(inputs, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["summary"] == metrics
    assert list(metrics) == ["poison_success", "clean_success", "poisoned_accuracy", "clean_accuracy"]
    # Means over victims are 1 and 1/2; over the cases 3/4, with sd √(2 · 1/16) and so se 1/4.
    assert metrics["poison_success"] == {"mean": 0.75, "se": pytest.approx(0.25), "cases": 2, "victims": 2}
    assert metrics["clean_success"] == {"mean": 0.25, "se": pytest.approx(0.25), "cases": 2, "victims": 2}
    accuracy = metrics["poisoned_accuracy"]
    assert (accuracy["mean"], accuracy["se"]) == (pytest.approx(0.93), pytest.approx(0.02))
    assert metrics["clean_accuracy"]["se"] == pytest.approx(0)


def test_the_cases(inputs, tmp_path):
    run(inputs, tmp_path / "out")
    first, second = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]
    target = base_shards.load(inputs["dataset"]).test.labels
    assert first == {
        "case": 0,
        "target_class": "4",
        "poison_class": "7",
        "intended_class": "7",
        "target_ids": [int(np.flatnonzero(target == 4)[0])],
        "poisons": 12,
        "success": 1.0,
        "clean_success": 0.0,
        "brew_loss": 0.25,
        "poisoned_accuracy": pytest.approx(0.91),
        "clean_accuracy": pytest.approx(0.96),
        "p_intended": pytest.approx(0.7),
        "clean_p_intended": pytest.approx(0.15),
        "predictions": ["7", "7"],
        "clean_predictions": ["4", "4"],
    }
    assert (second["success"], second["predictions"], second["poisons"]) == (0.5, ["1", "9"], 6)


def test_one_case_has_no_standard_error(inputs, tmp_path):
    metrics = run(inputs, tmp_path / "out", cases=1)
    assert metrics["poison_success"] == {"mean": 1.0, "se": None, "cases": 1, "victims": 2}
    assert "±" not in (tmp_path / "out" / "table.txt").read_text()


def test_the_standard_error_is_the_samples():
    # Deviations -3, -1, 1, 3: squares sum to 20, so sd = √(20/3), and se = sd/2.
    figure = mean_and_error([0.1, 0.3, 0.5, 0.7])
    assert figure == {"mean": pytest.approx(0.4), "se": pytest.approx(0.1 * math.sqrt(20 / 3) / 2)}
    assert rate(figure) == "40.0 ± 12.9 %"


def test_the_table_is_aligned(inputs, tmp_path):
    run(inputs, tmp_path / "out")
    lines = (tmp_path / "out" / "table.txt").read_text().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["0", "4", "→", "7", "12", "0.2500", "100.0", "%", "0.0", "%", "91.0", "%", "96.0", "%"]
    assert "75.0 ± 25.0 %" in lines[-1] and "0.5000" in lines[-1]


def test_the_pictures_decode_and_are_the_same_again(inputs, tmp_path):
    for out in ("out", "again"):
        run(inputs, tmp_path / out)
    names = {"adversarial-loss.png", "brew-loss.png", "case-00.png", "case-01.png", "success.png"}
    sheets = {"gallery-00.png", "gallery-01.png"}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == names | sheets
    for name in names:
        with Image.open(tmp_path / "out" / name) as picture:
            picture.load()
            assert min(picture.size) > 300
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_gallery_has_poisons_bases_and_targets_pixel_by_pixel(inputs, tmp_path):
    run(inputs, tmp_path / "out")
    dataset = base_shards.load(inputs["dataset"])
    first, second = json.loads((tmp_path / "out" / gallery.GALLERY).read_text())
    assert (first["case"], first["file"], second["file"]) == (0, "gallery-00.png", "gallery-01.png")
    for c, facts in enumerate([first, second]):
        made = poisons.load(inputs[f"overlay.{c}"], overlay.STEM)
        seen = gallery.read((tmp_path / "out" / facts["file"]).read_bytes(), facts)
        assert seen.poison_ids == made.ids[: gallery.MOST].tolist()
        np.testing.assert_array_equal(seen.poisons, made.images[: gallery.MOST])
        np.testing.assert_array_equal(seen.base, dataset.train.of(made.ids[: gallery.MOST]).array)
        np.testing.assert_array_equal(seen.targets, dataset.test.of(seen.target_ids).array)
        assert seen.target_ids == list(load_case(inputs[f"case.{c}"]).target_ids)


@pytest.mark.parametrize(("poisons_shown", "targets"), [(3, 1), (1, 4)])
def test_a_sheet_of_colour_images_reads_back(poisons_shown, targets):
    drawn = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 7, 3), dtype=np.uint8)
    ids = (list(range(poisons_shown)), list(range(targets)))
    given = gallery.Gallery(drawn[0, :poisons_shown], drawn[1, :poisons_shown], ids[0], drawn[2, :targets], ids[1])
    back = gallery.read(*gallery.sheet(given))
    for name in ("base", "poisons", "targets"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given, name))


def test_the_curves_of_a_race_end_where_their_restarts_were_dropped(inputs, tmp_path, monkeypatch):
    """Three restarts, of which the first two reach the second leg, and the first its end."""
    legs = [(0, [0.9]), (1, [0.8]), (2, [0.7]), (1, [0.8, 0.6]), (0, [0.9, 0.5]), (0, [0.9, 0.5, 0.3])]
    for c in range(2):
        for number, (restart, losses) in enumerate(legs):
            inputs[f"brew.{c}.{number}"] = tmp_path / f"leg.{c}.{number}"
            inputs[f"brew.{c}.{number}"].mkdir()
            (inputs[f"brew.{c}.{number}"] / "brew.json").write_text(json.dumps({"losses": losses, "restart": restart}))
    drawn = []
    draw = figures.brew_loss
    monkeypatch.setattr(figures, "brew_loss", lambda cases: drawn.append(draw(cases)) or drawn[-1])
    run(inputs, tmp_path / "out")
    (figure,) = drawn
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[0.8, 0.6], [0.7], [0.9, 0.5, 0.3]]


def test_poisons_that_break_their_bound_are_not_summed_up(inputs, tmp_path):
    made = poisons.load(inputs["overlay.1"], overlay.STEM)
    # Copies: what was loaded is a view of the file that is written over.
    beyond = PoisonSet(made.ids.copy(), 255 - made.images, made.labels.copy(), made.info)
    poisons.save(beyond, inputs["overlay.1"], overlay.STEM)
    with pytest.raises(InputError, match=f"poison {beyond.ids[0]}:.*eps = {EPS}/255"):
        run(inputs, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_poisons_that_were_made_elsewhere_have_no_loss(inputs, tmp_path):
    for c in range(2):
        made = poisons.load(inputs[f"select.{c}"])
        elsewhere = PoisonSet(made.ids.copy(), made.images.copy(), made.labels.copy(), {"format": "arrow"})
        poisons.save(elsewhere, inputs[f"select.{c}"])
        chosen = {"dataset": inputs["dataset"], "poisons": inputs[f"select.{c}"]}
        ctx = Context(0, Runtime(), Checkpoint(tmp_path))
        export.run(export.Params(eps=EPS), chosen, inputs[f"overlay.{c}"], ctx)
    (tmp_path / "out").mkdir()
    ctx = Context(0, Runtime(), Checkpoint(tmp_path))
    metrics = summarize.run(Params(cases=2, victims=2, restarts=0), inputs, tmp_path / "out", ctx)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [row["brew_loss"] for row in written["cases"]] == [None, None]
    assert metrics["poison_success"]["mean"] == 0.75
    lines = (tmp_path / "out" / "table.txt").read_text().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split()[4:7] == ["12", "-", "100.0"] and " - " in lines[-1]
    names = {"adversarial-loss.png", "case-00.png", "case-01.png", "gallery-00.png", "gallery-01.png", "success.png"}
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == names
