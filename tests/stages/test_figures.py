"""What the pictures hold: panels, limits and captions, and that no text runs out of the page or into another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from stages import figures
from stages.case_figure import Call, CasePicture, amplified, case_picture
from stages.shards import base_shards


def picture(dataset, count=20, victims=4, **changes):
    base = dataset.train.images[:count]
    poisons = np.clip(base.astype(int) + np.where(base > 127, -9, 9), 0, 255).astype(np.uint8)
    calls = [Call("seven" if victim % 2 else "four", 0.75, bool(victim % 2)) for victim in range(victims)]
    facts = {
        "title": "Case 3: four → seven",
        "base": base,
        "poisons": poisons,
        "ids": list(range(50_000, 50_000 + count)),
        "eps": 16,
        "target": dataset.test.images[0],
        "target_id": 8745,
        "targets": 1,
        "true_class": "four",
        "intended_class": "seven",
        "poison_class": "seven",
        "brew_loss": 0.125,
        "poisoned": calls,
        "clean": [Call("American black bear, Ursus americanus", 1.0, False)] * victims,
    }
    return CasePicture(**{**facts, **changes})


def adversarial(count):
    curve = np.linspace(3, 0, 10)[None] + np.arange(2)[:, None]
    return [figures.AdversarialLoss(f"{c}: 4 → 7", range(1, 11), curve, 3 + c + curve) for c in range(count)]


def brews(count):
    restarts = [[1.0, 0.6, 0.5], [1.0, 0.5, 0.25]]
    return [figures.BrewLoss(f"{c}: 4 → 7", restarts, 1, 0.26) for c in range(count)]


def successes(count, draw=figures.success, **more):
    means = [{"mean": mean, "se": se if count > 1 else None} for mean, se in ((0.5, 0.1), (0.0, 0.0))]
    titles = [f"{c}: airplane → automobile" for c in range(count)]
    return draw(titles, [1.0] * count, [0.0] * count, (means[0], means[1]), **more)


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def words(figure):
    return "\n".join(text.get_text() for text in texts(figure))


def clashes(figure):
    """Texts that leave the page or lie on another."""
    FigureCanvasAgg(figure).draw()
    page = figure.bbox
    unseen = set()  # labels of ticks outside the view, which matplotlib keeps and does not draw
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure) if text not in unseen]
    cut = [text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > page.x1 or box.y1 > page.y1]
    return cut + [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)]


@pytest.fixture
def dataset(digits_folder):
    return base_shards.load(digits_folder)


@pytest.mark.parametrize(("poisons", "victims"), [(1, 1), (3, 20), (8, 4), (20, 8)])
def test_a_case_has_a_panel_for_each_image_and_room_for_its_words(dataset, poisons, victims):
    figure = case_picture(picture(dataset, poisons, victims))
    assert len(figure.axes) == 3 * min(poisons, 8) + 1
    assert clashes(figure) == []


def test_a_case_states_what_it_shows(dataset):
    said = words(case_picture(picture(dataset, victims=20, targets=3)))
    for fact in ("20 poisons", "8 shown", "largest change 9/255", "allowed 16/255", "B = 0.125", "× 14", "8745"):
        assert fact in said
    assert "first of 3 targets" in said and "poisoned: 10 of 20" in said and "clean: 0 of 20" in said
    assert "4 more victims not shown" in said
    assert said.count("●") == 8 + 1 and said.count("○") == 8 + 16 + 1  # a sign a victim shown, and the key


def test_the_change_is_symmetric_about_grey():
    base = np.full((1, 2, 2, 1), 100, np.uint8)
    poison = base + np.array([0, 1, 8, -8]).astype(np.uint8).reshape(1, 2, 2, 1)
    shown, factor, largest = amplified(base, poison)
    assert (factor, largest) == (15, 8)
    assert shown.ravel().tolist() == [128, 143, 248, 8]
    assert amplified(base, base)[0].tolist() == np.full_like(base, 128).tolist()
    inverted = amplified(np.zeros_like(base), np.full_like(base, 255))
    assert inverted[0].max() == 255 and inverted[1:] == (1, 255)


@pytest.mark.parametrize("side", [8, 32, 224])
def test_a_case_of_colour_images_of_any_size(dataset, side, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (2, side, side, 3), dtype=np.uint8)
    figure = case_picture(picture(dataset, base=pixels, poisons=pixels + 5, ids=[1, 2], target=pixels[0]))
    figures.save(figure, tmp_path / "case.png")
    with Image.open(tmp_path / "case.png") as image:
        colours = len(image.convert("RGB").getcolors(1 << 24))
    assert colours > 150


@pytest.mark.parametrize(("cases", "panels"), [(1, 1), (3, 3), (7, 7), (12, 12), (13, 1)])
def test_adversarial_loss_is_small_multiples_until_there_are_too_many(cases, panels):
    figure = figures.adversarial_loss(adversarial(cases))
    assert len(figure.axes) == panels
    assert len(figure.axes[0].lines) == (2 * 2 + 2 if cases <= 12 else 2 * 13 + 2)
    for axes in figure.axes:
        bottom, top = axes.get_ylim()
        assert bottom == 0 and all(line.get_ydata().max() <= top for line in axes.lines)
    assert clashes(figure) == []


def test_the_thick_line_is_the_mean_of_the_victims():
    figure = figures.adversarial_loss(adversarial(1))
    clean, poisoned = (line for line in figure.axes[0].lines if line.get_linewidth() > 2)
    assert poisoned.get_ydata() == pytest.approx(np.linspace(3, 0, 10) + 0.5)
    assert clean.get_ydata() == pytest.approx(np.linspace(6, 3, 10) + 0.5)
    assert clean.get_linestyle() != poisoned.get_linestyle()


@pytest.mark.parametrize("cases", [1, 5, 12, 15])
def test_brew_loss_shows_at_most_twelve_cases_and_says_so(cases):
    figure = figures.brew_loss(brews(cases))
    assert len(figure.axes) == min(cases, 12)
    assert ("the first 12 of 15 cases" in words(figure)) == (cases == 15)
    assert "restart 1: 0.260" in words(figure)
    assert figure.axes[0].lines[-1].get_ydata().tolist() == [1.0, 0.5, 0.25]
    assert clashes(figure) == []


@pytest.mark.parametrize("cases", [1, 10, 40])
def test_success_has_a_row_a_case_and_the_mean(cases):
    figure = successes(cases)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == cases + 1 and labels[-1].startswith("mean")
    assert ("poisoned victims: 50.0 ± 10.0 %" in words(figure)) == (cases > 1)
    assert clashes(figure) == []


@pytest.mark.parametrize("width", [figures.NARROW, 7.2])
def test_the_papers_figure_is_a_line_beside_ours(width):
    figure = successes(6, paper=0.9, width=width)
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "the paper: 90 %")
    assert line.get_xdata() == [0.9, 0.9]
    assert "the paper: 90 %" in words(figure) and "poisoned victims: 50.0 ± 10.0 %" in words(figure)
    assert clashes(figure) == []


@pytest.mark.parametrize("cases", [1, 7])
def test_on_a_phone_everything_has_room(cases):
    narrow = {"width": figures.NARROW}
    drawn = (
        figures.adversarial_loss(adversarial(cases), **narrow),
        figures.brew_loss(brews(cases), **narrow),
        successes(cases, **narrow),
        successes(cases, figures.accuracy, **narrow),
    )
    for figure in drawn:
        assert figure.get_size_inches()[0] <= figures.NARROW
        assert clashes(figure) == []


def test_a_brew_that_goes_on_has_no_chosen_restart():
    figure = figures.brew_loss([figures.BrewLoss("0: 4 → 7", [[1.0, 0.6], [1.0]], None, None)])
    assert not figure.axes[0].texts and len(figure.axes[0].lines) == 2


def test_a_class_name_is_text_and_no_formula(tmp_path):
    title = "0: $x_1 → $\\frac"
    figures.save(figures.brew_loss([figures.BrewLoss(title, [[1.0, 0.5]], 0, 0.5)]), tmp_path / "brew.png")
    assert (tmp_path / "brew.png").stat().st_size > 1000


def test_the_style_neither_leaks_nor_depends_on_the_machine(tmp_path, monkeypatch):
    before = dict(rcParams)
    figures.save(successes(3), tmp_path / "one.png")
    assert dict(rcParams) == before
    monkeypatch.setitem(rcParams, "font.size", 20.0)
    monkeypatch.setitem(rcParams, "lines.linewidth", 9.0)
    figures.save(successes(3), tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert set(image.info) <= {"dpi"}
