"""Every page in Chromium: no error, no other host, all formulas set, none too wide."""

import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, ViewportSize, sync_playwright

from tests.conftest import SITE, skip_or_fail

PAGES = sorted(
    path.relative_to(SITE).as_posix()
    for path in SITE.rglob("*.html")
    if not path.relative_to(SITE).as_posix().startswith("_")
    and path.name != "index.html"  # leads to README.html
)
READY = """async () => {
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;
}"""
RAW_MATH = r"""() => {
  const article = document.querySelector("article") ?? document.body;
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const set = "pre, code, script, style, mjx-container";
  const raw = /\$\$|\\(tag|frac|begin|mathbf|odot|sum)\b|\\[([]/;
  const errors = [...document.querySelectorAll("mjx-merror")];
  const bad = errors.map((e) => e.title || "error");
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    if (!node.parentElement.closest(set) && raw.test(node.data)) bad.push(node.data);
  return bad;
}"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("article *")]
    .filter((e) => e.getBoundingClientRect().right > width + 1)
    .slice(0, 5).map((e) => e.tagName + "." + e.className);
}"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Quiet(SimpleHTTPRequestHandler):
    """A file server that writes no log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a local port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium: the one that $CHROMIUM names, the system's, or Playwright's own."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
        except Error as error:
            skip_or_fail(f"no Chromium: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


def visit(page: Page, address: str, path: str) -> list[str]:
    """Open a page and wait for its formulas; what went wrong on the way."""
    wrong: list[str] = []
    host = urlsplit(address).netloc
    page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: (
            wrong.append(f"other host: {request.url}")
            if urlsplit(request.url).netloc not in {host, ""}
            else None
        ),
    )
    page.goto(f"{address}/{path}", wait_until="load")
    page.evaluate(READY)
    return wrong


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page(
    browser: Browser, address: str, path: str, theme: Literal["light", "dark"]
) -> None:
    size: ViewportSize = {"width": 1300, "height": 900}
    context = browser.new_context(color_scheme=theme, viewport=size)
    page = context.new_page()
    try:
        assert visit(page, address, path) == []
        assert page.get_attribute("html", "data-theme") == theme
        assert page.evaluate(RAW_MATH) == []
        for width in (1300, 390, 320):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate(OVERFLOW) <= 0, page.evaluate(TOO_WIDE)
    finally:
        context.close()


def test_pictures_turn_dark(browser: Browser, address: str, site: Path) -> None:
    """In the dark theme a figure's dark ink is turned round, on no ground."""
    path = next(p for p in PAGES if "<img" in (site / p).read_text("utf-8"))
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    visit(page, address, path)
    style = page.eval_on_selector(
        "article img",
        "e => [getComputedStyle(e).filter, getComputedStyle(e).backgroundColor]",
    )
    context.close()
    assert "invert(1)" in style[0] and style[1] in {"rgba(0, 0, 0, 0)", "transparent"}
