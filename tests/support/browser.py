"""A real browser for pages: Debian's Chromium, without a screen and without a network."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = 390, 1440
"""Widths in CSS pixels."""

CUT_OFF = """
() => {
  const wide = document.documentElement.clientWidth, found = [];
  const seen = (element) => !element.closest(".unseen, .skip, [hidden]") && element.checkVisibility();
  const scrolls = (element) => element.closest(".scroll, pre");
  const whole = document.documentElement.scrollWidth;
  if (whole > wide) found.push(`the page is ${whole} wide`);
  for (const element of document.querySelectorAll("body *")) {
    if (!seen(element) || !element.clientWidth) continue;
    const look = getComputedStyle(element);
    const free = ["auto", "scroll"].includes(look.overflowX);
    if (!free && element.scrollWidth > element.clientWidth + 1) found.push(`${element.tagName}.${element.className}`);
    const clips = ["hidden", "clip"].includes(look.overflowY);
    if (clips && element.scrollHeight > element.clientHeight + 1) found.push(`${element.tagName}.${element.className}`);
  }
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (!text.data.trim() || !seen(text.parentElement) || scrolls(text.parentElement)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const box = range.getBoundingClientRect();
    if (box.width && (box.left < -0.5 || box.right > wide + 0.5)) found.push(text.data.trim());
  }
  return found;
}
"""
"""Gives what of a page leaves the screen, or its own box, where nobody can scroll to it."""


@dataclass
class Opened:
    """A page in the browser. said: what was on its console, and errors.  asked: what it wanted from elsewhere."""

    page: "Page"
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def cut_off(self) -> list[str]:
        """What leaves the screen or its own box."""
        found: list[str] = self.page.evaluate(CUT_OFF)
        return found

    def undecoded(self) -> list[str]:
        """The pictures that do not decode, by their alt text."""
        script = """async () => {
          const images = [...document.images];
          const answers = await Promise.allSettled(images.map((image) => image.decode()));
          return images.filter((image, number) => answers[number].status !== "fulfilled" || !image.naturalWidth)
            .map((image) => image.alt);
        }"""
        found: list[str] = self.page.evaluate(script)
        return found


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium; of a module, as its event loop would be in the way of other modules' own."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: "Browser") -> Open:
    """Opens a file in a window of its own: `with opened(file, width=390) as page`."""

    @contextmanager
    def open_file(file: Path, width: int = DESK, **look: Any) -> Iterator[Opened]:
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **look)
        page = context.new_page()
        window = Opened(page)
        page.on("console", lambda message: window.said.append(message.text))
        page.on("pageerror", lambda error: window.said.append(str(error)))
        address = file.as_uri()
        page.on(
            "request", lambda request: request.url.startswith((address, "data:")) or window.asked.append(request.url)
        )
        page.goto(address)
        try:
            yield window
        finally:
            context.close()

    return open_file
