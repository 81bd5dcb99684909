"""The page and its files: the same store gives the same bytes, what a user wrote stays text, and the experiment file
gives the same run again."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.experiment_file import load_experiments
from pipeline.plan import plan
from pipeline.report import page
from pipeline.report.collect import collect
from pipeline.report.page import PAGE, report
from pipeline.report.pictures import gallery
from pipeline.store import open_store
from stages.gallery import Gallery


@pytest.fixture(scope="module")
def found(two_variants):
    return collect(open_store(two_variants.store), two_variants.run)


@pytest.fixture(scope="module")
def made(found):
    return report([found])


def test_the_same_store_gives_the_same_bytes(found, made):
    assert report([found]).files == made.files


def test_the_page_is_alone_and_the_charts_lie_beside_it(made):
    text = made.files[PAGE].decode()
    assert not re.search(r"""(?:src|href|srcset)=["'](?!data:|#)""", text)
    assert "://" not in re.sub(r'"data:[^"]*"', "", text)
    names = {name for name in made.files if name.startswith("figures/")}
    expected = {
        f"figures/{variant}/{chart}.{kind}"
        for variant in ("eps-8", "eps-32")
        for chart in ("success", "accuracy", "adversarial-loss", "brew-loss", "training", "alignment")
        for kind in ("png", "svg")
    } | {"figures/comparison.png", "figures/comparison.svg"}
    assert names == expected
    for name in names:
        if name.endswith(".png"):
            with Image.open(io.BytesIO(made.files[name])) as picture:
                picture.load()
        else:
            assert b"<svg" in made.files[name] and b"<dc:date>" not in made.files[name]


def test_what_a_user_wrote_is_text(made, found):
    text = made.files[PAGE].decode()
    assert "Two &lt;variants&gt; &amp; a quote" in text and "<variants>" not in text
    drawn = {**(found.variants[0].cases[0].drawn or {}), "target_class": "<script>alert(1)</script>"}
    case = replace(found.variants[0].cases[0], drawn=drawn)
    harmful = replace(found, variants=(replace(found.variants[0], cases=(case,)),))
    assert "<script>alert" not in report([harmful]).files[PAGE].decode()


def test_the_experiment_file_gives_the_same_run(made, two_variants, tmp_path):
    file = tmp_path / "again.yaml"
    file.write_bytes(made.files[f"{two_variants.run}.yaml"])
    assert plan(load_experiments(str(file))).run == two_variants.run
    assert set(yaml.safe_load(file.read_text())["variants"]["eps-8"]) == {"attack"}


def test_a_run_without_variants_gives_the_same_run_too(finished, tmp_path):
    run = finished.result["run"]
    made = report([collect(open_store(finished.store), run)])
    file = tmp_path / "again.yaml"
    file.write_bytes(made.files[f"{run}.yaml"])
    assert plan(load_experiments(str(file))).run == run
    text = made.files[PAGE].decode()
    assert f"brewline run {run}.yaml --store {finished.store}" in text
    assert "Side by side" not in text and "compared with" not in text


def test_the_figures_stand_in_the_page(made, two_variants):
    text = made.files[PAGE].decode()
    for told in two_variants.result["variants"].values():
        assert f"{100 * told['summary']['poisoned_accuracy']['mean']:.1f}" in text
        for case in told["cases"]:
            assert f"{case['brew_loss']:.4f}" in text
    assert "the paper&#39;s" in text and "90 %" in text


def test_an_unfinished_run_says_so_first(unfinished, two_variants):
    text = report([collect(unfinished, two_variants.run)]).files[PAGE].decode()
    assert f"{two_variants.run} is not finished." in text
    assert text.index("is not finished") < text.index('id="results"')
    assert "The pictures are made when the run is summed up" in text
    assert "nothing is compared in pairs" in text


def test_two_runs_stand_side_by_side(found, finished, two_variants):
    other = collect(open_store(finished.store), finished.result["run"])
    made = report([found, other])
    text = made.files[PAGE].decode()
    assert {f"{two_variants.run}.yaml", f"{other.run}.yaml"} <= set(made.files)
    assert f"figures/{two_variants.run}-eps-8/success.png" in made.files
    assert "different cases" in text


def test_large_images_are_fewer(found):
    variant = found.variants[0]
    noise = np.random.default_rng(0).integers(0, 256, (12, 224, 224, 3), dtype=np.uint8)
    large = Gallery(noise, noise[::-1], list(range(12)), noise[:1], [5])
    cases = tuple(replace(case, gallery=large) for case in variant.cases)
    shown = gallery(replace(variant, cases=cases), 2_000_000)["gallery"]
    assert [len(case["poisons"]) for case in shown] == [2, 2]  # of 1 MB a case, at 450 kB a poison
    assert "2 of" in shown[0]["note"]
    assert [len(case["poisons"]) for case in gallery(variant, page.PAGE_BYTES)["gallery"]] == [12, 12]
