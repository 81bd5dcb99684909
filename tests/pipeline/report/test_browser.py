"""The pages in a real browser: without a network, silent, whole on a phone and on a desk, and used by keyboard."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from browser import DESK, PHONE, Open
from pipeline.report.collect import RunFound, collect
from pipeline.report.page import PAGE, Report, report
from pipeline.report.sweep import collect_sweep
from pipeline.report.sweep_page import sweep_report
from pipeline.store import open_store
from stages.stage import STAGES

pytest.importorskip("playwright", reason="playwright is not installed: it drives the browser")
KINDS = ("run", "variants", "unfinished", "sweep", "long names")


@pytest.fixture(scope="module")
def page_of(two_variants, finished, unfinished, swept, tmp_path_factory) -> Callable[[str], Path]:
    """Writes the page of a kind and its files, once, and says where."""

    @cache
    def write(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("report")
        for name, data in made(kind).files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder / PAGE

    def made(kind: str) -> Report:
        if kind == "sweep":
            return sweep_report(collect_sweep(swept, "eps-and-budget"))
        if kind == "run":
            return report([collect(open_store(finished.store), finished.result["run"])])
        if kind == "unfinished":
            return report([collect(unfinished, two_variants.run)])
        found = collect(open_store(two_variants.store), two_variants.run)
        return report([_with_long_names(found) if kind == "long names" else found])

    return write


def _with_long_names(found: RunFound) -> RunFound:
    """The run as one on ImageNet may be, with names of many words, and of one without a place to break."""
    names = {
        "target_class": "American black bear, black bear, Ursus americanus, Euarctos americanus",
        "intended_class": "Brabançon" * 6,
        "poison_class": "Brabançon" * 6,
    }

    def longer(evaluation):
        told = [target | {"prediction_name": names["intended_class"]} for target in evaluation["targets"]]
        return {**evaluation, "targets": told}

    variants = [
        replace(
            variant,
            cases=tuple(
                replace(
                    case,
                    drawn={**case.drawn, **names},
                    poisoned={number: longer(one) for number, one in case.poisoned.items()},
                )
                for case in variant.cases
            ),
        )
        for variant in found.variants
    ]
    facts = {**found.provenance, "hardware": ["AMD EPYC, 2 cores" * 5, "x" * 200], "commit": "f" * 40 + "-dirty"}
    return replace(found, variants=tuple(variants), provenance=facts)


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_loads_without_a_network_silent_and_whole(kind: str, width: int, page_of, opened: Open) -> None:
    with opened(page_of(kind), width) as window:
        assert window.undecoded() == []
        assert window.page.locator("img").count() >= 3
        for details in window.page.locator("summary").all():
            details.click()
        assert window.cut_off() == []
        assert (window.said, window.asked) == ([], [])


def test_what_is_cut_off_would_be_found(page_of, opened: Open) -> None:
    with opened(page_of("run"), PHONE) as window:
        window.page.add_style_tag(content="h1 { width: 500px } .kind { height: 5px; overflow: hidden }")
        assert {"P.kind"} < set(window.cut_off())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["variants", "unfinished", "sweep"])
def test_a_page_is_accessible(kind: str, scheme: str, page_of, opened: Open) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(page_of(kind), PHONE, color_scheme=scheme) as window:
        for details in window.page.locator("summary").all():
            details.click()
        found = axe.Axe().run(window.page)
        assert found.violations_count == 0, found.generate_report()
        assert window.page.locator("img:not([alt]), img[alt='']").count() == 0


def test_base_poison_and_change_are_toggled_by_keyboard_and_finger(page_of, opened: Open) -> None:
    with opened(page_of("run"), PHONE, has_touch=True) as window:
        shown = {name: window.page.locator(f".stack .{name}").first for name in ("base", "poison", "change")}

        def visible() -> list[str]:
            return [name for name, image in shown.items() if image.is_visible()]

        assert visible() == ["poison"]
        window.page.get_by_label("poison", exact=True).focus()
        window.page.keyboard.press("ArrowDown")
        assert visible() == ["change"]
        window.page.keyboard.press("ArrowDown")
        assert visible() == ["base"]
        window.page.locator(".case").last.scroll_into_view_if_needed()
        window.page.get_by_text("change, amplified").tap()  # it stays in sight beside the pictures
        assert visible() == ["change"]
        sources = {image.get_attribute("src") for image in shown.values()}
        assert len(sources) == 3


def test_a_table_is_sorted_by_its_heads(page_of, opened: Open) -> None:
    with opened(page_of("run")) as window:
        window.page.locator("summary").first.click()
        table = window.page.locator("#steps-0")

        def column(number: int) -> list[str]:
            return table.locator(f"tbody tr > *:nth-child({number})").all_inner_texts()

        before = column(1)
        by_time = table.get_by_role("button", name="seconds")
        by_time.click()
        assert table.locator("[aria-sort]").get_attribute("aria-sort") == "ascending"
        seconds = [float(text) for text in column(4)]
        assert seconds == sorted(seconds) and column(1) != before
        by_time.press("Enter")
        assert [float(text) for text in column(4)] == sorted(seconds, reverse=True)
        assert table.locator("[aria-sort]").get_attribute("aria-sort") == "descending"
        table.get_by_role("button", name="step").click()
        assert column(1) == before
        stages = window.page.locator("#stages-0")
        stages.get_by_role("button", name="stage").click()
        names = stages.locator("tbody th").all_inner_texts()
        assert names == [stage for stage in STAGES if stage in names]


def test_what_is_not_known_is_sorted_last(page_of, opened: Open) -> None:
    with opened(page_of("sweep")) as window:
        table = window.page.locator("#all-trials")
        head = table.get_by_role("button", name="poison success", exact=True)
        column = table.locator("thead th").all_inner_texts().index(head.inner_text()) + 1
        for _ in range(2):
            head.click()
            found = table.locator(f"tbody tr > *:nth-child({column})").all_inner_texts()
            assert found[-2:] == ["–", "–"] and "–" not in found[:-2]


def test_variants_are_compared_with_whichever_is_chosen(page_of, opened: Open) -> None:
    with opened(page_of("variants")) as window:
        shown = window.page.locator("#compared tbody:visible")
        assert shown.count() == 1 and "compared with" in shown.locator("tr").nth(0).inner_text()
        first = shown.locator("tr").nth(1).locator("td").last.inner_text()
        window.page.get_by_label("Differences are to").select_option("eps-32")
        assert "compared with" in shown.locator("tr").nth(1).inner_text()
        second = shown.locator("tr").nth(0).locator("td").last.inner_text()
        mean, other = (float(text.split(" ± ")[0]) for text in (first, second))
        assert mean == -other != 0


def test_variants_stand_side_by_side_and_can_be_hidden(page_of, opened: Open) -> None:
    with opened(page_of("variants")) as window:
        one, two = (window.page.locator(f"#results [data-group={name}]") for name in ("g0", "g1"))
        left, right = one.bounding_box(), two.bounding_box()
        assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
        window.page.get_by_label("eps-8", exact=True).uncheck()
        assert not one.is_visible() and two.is_visible()
        assert not window.page.locator("#cases [data-group=g0]").is_visible()
        assert two.bounding_box()["width"] > 1.5 * right["width"]


def test_on_paper_everything_is_open(page_of, opened: Open, tmp_path: Path) -> None:
    with opened(page_of("run")) as window:
        window.page.emulate_media(media="print")
        window.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert not window.page.locator("nav").is_visible()
        assert window.page.locator("#steps-0").is_visible()
        for name in ("base", "poison", "change"):
            assert window.page.locator(f".stack .{name}").first.is_visible()
        window.page.pdf(path=tmp_path / "report.pdf", format="A4")
        assert (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n") >= 3


def test_colours_follow_the_readers_scheme(page_of, opened: Open) -> None:
    file, seen = page_of("run"), []
    for scheme in ("light", "dark"):
        with opened(file, color_scheme=scheme) as window:
            seen.append(window.page.locator(".chart img").first.screenshot())
    assert seen[0] != seen[1]
