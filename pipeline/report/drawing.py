"""How a chart gets into a report: as files beside the page, and in it for a screen and for a phone.

In the page a chart is an SVG of its own, whose colours follow the reader's light or dark scheme; the files beside it
are as on paper. The same figures give the same bytes.
"""

import io
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from stages.figures import NARROW, STYLE, WIDE

DARK = {
    "#222222": "#e9e9e9",
    "#6b6b6b": "#a9adb3",
    "#c9c9c9": "#54585e",
    "#ebebeb": "#33373c",
    "#ffffff": "#191c1f",
    "#c44e00": "#ff9a57",
    "#5aa5d6": "#76bdea",
}
"""Each colour of `stages.figures` on a dark page."""
LIGHT = {colour: colour for colour in DARK} | {"#5aa5d6": "#2f7fb5"}
"""On a light one: blue as dark as thin lines on white need."""


@dataclass(frozen=True)
class Chart:
    """One chart. name: of its files.  alt: what it shows, in words.  note: how it is read.  draw: it, at a width."""

    name: str
    alt: str
    note: str
    draw: Callable[[float], Figure]


@dataclass(frozen=True)
class Drawn:
    """A chart as the page and the folder have it. wide, narrow: data URLs of SVGs with their size in CSS pixels."""

    chart: Chart
    wide: str
    wide_size: tuple[int, int]
    narrow: str
    narrow_size: tuple[int, int]
    files: Mapping[str, bytes]


def drawn(chart: Chart) -> Drawn:
    """Draw a chart in all its forms."""
    wide, narrow = chart.draw(WIDE), chart.draw(NARROW)
    paper = _svg(wide)
    files = {f"{chart.name}.svg": paper, f"{chart.name}.png": _png(wide)}
    return Drawn(chart, _in_page(paper), _pixels(wide), _in_page(_svg(narrow)), _pixels(narrow), files)


def _pixels(figure: Figure) -> tuple[int, int]:
    width, height = figure.get_size_inches()
    return round(width * 96), round(height * 96)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with style.context(STYLE):
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def _svg(figure: Figure) -> bytes:
    """Text is drawn as shapes, so that it is as wide on every machine; without a date, and with names of its own."""
    file = io.BytesIO()
    with style.context([*STYLE, {"svg.hashsalt": "brewline", "svg.fonttype": "path"}]):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _in_page(svg: bytes) -> str:
    """A data URL of an SVG whose colours follow the page's scheme."""
    names = {colour: f"--c{number}" for number, colour in enumerate(DARK)}

    def scheme(colours: Mapping[str, str]) -> str:
        return ":root{" + ";".join(f"{names[colour]}:{value}" for colour, value in colours.items()) + "}"

    rules = f"<style>{scheme(LIGHT)}@media (prefers-color-scheme: dark){{{scheme(DARK)}}}</style>"
    text = svg.decode()
    for colour, name in names.items():
        text = text.replace(colour, f"var({name})")
    text = re.sub(r"(<svg\b[^>]*>)", lambda found: found[1] + rules, text, count=1)
    return "data:image/svg+xml;base64," + b64encode(text.encode()).decode()
