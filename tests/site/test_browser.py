"""Every page in Chromium, opened once: no error, small, still, readable by all."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, Request, Response, sync_playwright

from book import settings
from book.tools.host import chromium, serve
from tests.conftest import SITE, skip_or_fail

PAGES = sorted(
    name
    for path in SITE.rglob("*.html")
    if not (name := path.relative_to(SITE).as_posix()).startswith("_")
    and name != "index.html"  # a copy of the first page
)
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
# Once for a tab: it is long, and pages that do not ask for it only skim it.
LATER = f"window.loadAxe = () => {{ {AXE} }}"
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
# The theme decides what these say, and the width does not.
OF_COLOUR = ["color-contrast", "link-in-text-block"]
SHIFTS = """new PerformanceObserver((list) => {
  window.shift = (window.shift ?? 0);
  for (const entry of list.getEntries()) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true })"""
# Sections that are far below are laid out too; then two frames, for the observers.
READY = """async () => {
  for (const section of document.querySelectorAll("section"))
    section.style.contentVisibility = "visible";
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map((image) => image.decode()));
  await document.fonts.ready;
}"""
FRAMES = (
    "() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))"
)
# One token of each kind and three formulas are enough for the rules, and one
# element of each look, on whatever page it is, for those of colour.
SAMPLE = """() => {
  const kinds = new Set();
  for (const token of document.querySelectorAll(".highlight pre span[class]"))
    if (kinds.has(token.className)) token.replaceWith(...token.childNodes);
    else kinds.add(token.className);
  for (const kind of ["mjx-math", "math"])
    for (const math of [...document.querySelectorAll(kind)].slice(3)) math.replaceChildren();
}"""
# Of the other rules, those that the part of the page breaks which `scope` selects.
RUN_AXE = """async ([standard, ofColour, scope, known]) => {
  const grounds = new Map([[null, ["", 1]]]);
  const ground = (element) => {
    if (!grounds.has(element)) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(element);
      let [under, seen] = ground(element.parentElement);
      if (backgroundColor.startsWith("rgb(")) under = backgroundColor;
      else if (!backgroundColor.endsWith(", 0)")) under += backgroundColor;
      if (backgroundImage !== "none") under += backgroundImage;
      grounds.set(element, [under, seen * opacity]);
    }
    return grounds.get(element);
  };
  const sample = new Map();
  for (const element of document.body.querySelectorAll("*")) {
    if (![...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    if (!element.checkVisibility()) continue;
    const { color, fontSize, fontWeight } = getComputedStyle(element);
    const link = element.closest("a");
    const beside = link && [getComputedStyle(link).textDecorationLine,
      getComputedStyle(link.parentElement).color];
    const look = [color, fontSize, fontWeight, ...ground(element), beside].join();
    if (!known.includes(look)) sample.set(look, element);
  }
  const runs = scope ? [[scope, null]] : [];
  if (sample.size)
    runs.push([{ include: [...sample.values()] }, ofColour.map((id) => [id, true])]);
  const found = [];
  for (const [context, rules] of runs) {
    const runOnly = rules
      ? { type: "rule", values: ofColour }
      : { type: "tag", values: standard };
    const off = Object.fromEntries(ofColour.map((id) => [id, { enabled: false }]));
    const options = { runOnly, resultTypes: ["violations"], ...(rules ? {} : { rules: off }) };
    const { violations } = await axe.run(context, options);
    for (const { id, nodes } of violations)
      found.push(...nodes.map((n) => `${id}: ${n.html.slice(0, 120)} ${n.failureSummary}`));
  }
  return [found, [...sample.keys()]];
}"""
VIEWS: list[tuple[int, Literal["light", "dark"]]] = [
    (390, "light"),
    (390, "dark"),
    (1300, "dark"),
    (1300, "light"),
]
COLOURS = "[...document.links].map((e) => getComputedStyle(e).color).join()"
RAW_MATH = r"""() => {
  const article = document.querySelector("article") ?? document.body;
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const raw = /\$\$|\\(tag|frac|begin|mathbf|odot|sum)\b|\\[([]/;
  const bad = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    if (!node.parentElement.closest("pre, code, script, style") && raw.test(node.data))
      bad.push(node.data);
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


@dataclass
class Opened:
    """A page in the browser, and what came with it."""

    path: str
    page: Page
    shift: float = 0.0
    wrong: list[str] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)

    def show(
        self,
        width: int,
        theme: Literal["light", "dark"] = "light",
        media: Literal["screen", "print"] = "screen",
    ) -> None:
        """Change window, theme and medium, and wait until the page has followed."""
        self.page.emulate_media(color_scheme=theme, media=media)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.evaluate(FRAMES)

    def weigh(self, kind: str = "") -> tuple[int, int]:
        """Bytes sent, and bytes unpacked, of all files or those of one kind."""
        found = [r for r in self.responses if kind in ("", r.request.resource_type)]
        sent = sum(r.request.sizes()["responseBodySize"] for r in found)
        return sent, sum(len(r.body()) for r in found)


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a local port."""
    with serve(site) as base:
        yield base


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; where there is none, these tests are skipped."""
    with sync_playwright() as playwright:
        try:
            found = chromium(playwright)
        except Error as error:
            skip_or_fail(f"no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


def lost(sent: Request) -> list[str]:
    """Return what is wrong with a request that failed: nothing where the page was left."""
    left = sent.failure == "net::ERR_ABORTED"
    return [] if left else [f"failed: {sent.url} {sent.failure}"]


def watch(page: Page, address: str) -> list[str]:
    """Return the list to which goes whatever goes wrong in a page from now on."""
    wrong: list[str] = []
    host = urlsplit(address).netloc
    page.on(
        "console",
        lambda m: wrong.append(m.text) if m.type in {"error", "warning"} else None,
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda sent: wrong.extend(lost(sent)))
    page.on(
        "request",
        lambda sent: (
            wrong.append(f"other host: {sent.url}")
            if urlsplit(sent.url).netloc not in {host, ""}
            else None
        ),
    )
    return wrong


@pytest.fixture(scope="module")
def tab(browser: Browser, address: str) -> Iterator[Opened]:
    """One tab for one page after the other, warm, but without a cache of files."""
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    result = Opened("", page, wrong=watch(page, address))
    page.on("response", lambda response: result.responses.append(response))
    page.add_init_script(SHIFTS)
    page.add_init_script(LATER)
    yield result
    page.close()


@pytest.fixture(scope="module", params=PAGES)
def opened(request: pytest.FixtureRequest, tab: Opened, address: str) -> Opened:
    """One page, opened once for all tests in an order that suits them."""
    tab.page.emulate_media(color_scheme="light", media="screen")
    tab.page.set_viewport_size({"width": 1300, "height": 900})
    tab.path = request.param
    tab.wrong.clear()
    tab.responses.clear()
    tab.page.goto(address + tab.path, wait_until="load")
    # The theme's sidebar slides in where the window crosses a width.
    tab.page.add_style_tag(content="* { transition: none !important }")
    tab.page.evaluate(FRAMES)
    tab.shift = tab.page.evaluate("window.shift ?? 0")
    tab.page.evaluate(READY)
    return tab


def test_layout_stays_still(opened: Opened) -> None:
    """Nothing moves while the page comes: formulas and pictures have their size."""
    assert opened.shift < 0.02


def test_nothing_goes_wrong(opened: Opened) -> None:
    assert opened.wrong == []
    assert opened.page.evaluate(RAW_MATH) == []


def test_weight(opened: Opened) -> None:
    """At most 1.5 MB as Pages sends it, of which scripts 0.6 MB even unpacked."""
    sent, _ = opened.weigh()
    _, scripts = opened.weigh("script")
    assert 10_000 < sent <= 1_500_000 and 1_000 < scripts <= 600_000


def test_keyboard(opened: Opened) -> None:
    """The first stop is a link past the navigation, and every stop can be seen."""
    opened.show(1300)
    page = opened.page
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    for stop in range(12):
        page.keyboard.press("Tab")
        style = page.evaluate(
            """() => {
              const e = document.activeElement, s = getComputedStyle(e);
              return [e.getAttribute("href"), s.outlineStyle, parseFloat(s.outlineWidth)];
            }"""
        )
        if not stop:
            assert style[0] == "#main-content"
            assert page.locator("#pst-skip-link").is_visible()
        assert style[1] != "none" and style[2] >= 2, style
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")


@pytest.mark.parametrize("width", [1300, 320, 390])
def test_nothing_is_wider_than_the_window(opened: Opened, width: int) -> None:
    opened.show(width)
    assert opened.page.evaluate(OVERFLOW) <= 0, opened.page.evaluate(TOO_WIDE)


def test_code_can_be_scrolled_from_the_keyboard(opened: Opened) -> None:
    """What is wider than its box takes the focus, and what is not does not."""
    opened.show(390)
    wrong = opened.page.evaluate(
        """() => [...document.querySelectorAll("article pre, article div.math")]
          .filter((e) => e.checkVisibility())
          .filter((e) => (e.scrollWidth > e.clientWidth) !== (e.tabIndex === 0))
          .map((e) => e.textContent.slice(0, 60))"""
    )
    assert wrong == []


def test_print(opened: Opened) -> None:
    """On paper there is the text alone, and all of each line."""
    opened.show(640, "dark", "print")
    page = opened.page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    theme = page.get_attribute("html", "data-theme")
    closed = page.locator("article details:not(.hide, [open])").count()
    title = page.locator("h1:not(.onlyprint *)").is_visible()
    shown = page.evaluate(
        """() => [...document.querySelectorAll("nav, button, form, header")]
          .filter((e) => e.checkVisibility() && e.getBoundingClientRect().width)
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    cut = page.evaluate(
        """() => [...document.querySelectorAll("article *")]
          .filter((e) => e.checkVisibility() && !e.closest("mjx-assistive-mml"))
          .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
          .map((e) => e.tagName + ": " + e.textContent.slice(0, 60))"""
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert (theme, closed, title) == ("light", 0, True)
    assert shown == [] and cut == []


@pytest.fixture(scope="module")
def passed() -> list[str]:
    """The looks whose colours have passed, on whatever page and in whatever theme."""
    return []


def test_accessibility(opened: Opened, passed: list[str]) -> None:
    """No violation of WCAG 2.2 A and AA; the last test of a page, which it changes.

    The rules of colour run in both themes, the others where they can differ: per width.
    """
    page = opened.page
    page.evaluate(SAMPLE)
    page.evaluate("loadAxe()")
    found: dict[tuple[int, str], list[str]] = {}
    for width, theme in VIEWS:
        opened.show(width, theme)
        assert page.get_attribute("html", "data-theme") == theme
        scope = "html" if theme == "light" else None
        asked = [STANDARD, OF_COLOUR, scope, passed]
        wrong, looks = page.evaluate(RUN_AXE, asked)
        if wrong:
            found[width, theme] = wrong
        else:
            passed += looks
    assert not found


@pytest.mark.parametrize("path", ["README.html", "chapters/04_gates.html", "404.html"])
def test_what_is_pointed_at_can_be_read(
    tab: Opened, address: str, passed: list[str], path: str
) -> None:
    """Links and buttons keep their contrast under the pointer: all are, at once."""
    page = tab.page
    page.goto(address + path)
    page.add_style_tag(content="* { transition: none !important }")
    # It comes on a narrow page when one scrolls back.
    page.eval_on_selector("#pst-back-to-top", "e => { e.style.display = 'block'; }")
    page.evaluate(SAMPLE)
    page.evaluate("loadAxe()")
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    asked = {"nodeId": root, "selector": "a, button, summary, input"}
    found = session.send("DOM.querySelectorAll", asked)["nodeIds"]
    before = {}
    for width, theme in VIEWS:
        tab.show(width, theme)
        before[width, theme] = page.evaluate(COLOURS)
    for node in found:
        forced = {"nodeId": node, "forcedPseudoClasses": ["hover"]}
        session.send("CSS.forcePseudoState", forced)
    for width, theme in VIEWS:
        tab.show(width, theme)
        assert page.get_attribute("html", "data-theme") == theme
        now = page.evaluate(COLOURS)
        assert now != before[width, theme], "nothing shows the pointer"
        wrong, _ = page.evaluate(RUN_AXE, [STANDARD, OF_COLOUR, None, passed])
        assert wrong == [], (width, theme)
    session.detach()


def test_a_request_that_fails_is_noticed(tab: Opened, address: str) -> None:
    tab.page.goto(address)
    tab.wrong.clear()
    tab.page.evaluate("fetch('missing.css')")
    tab.page.evaluate("fetch('http://127.0.0.1:9/').catch(() => null)")
    said = " ".join(tab.wrong)
    tab.wrong.clear()
    assert "404" in said and "failed: http://127.0.0.1:9/" in said


def test_axe_knows_the_standard(tab: Opened, address: str) -> None:
    tab.page.goto(address)
    tab.page.evaluate("loadAxe()")
    for tag in STANDARD:
        assert tab.page.evaluate("(tag) => axe.getRules([tag]).length", tag), tag


def test_a_question_is_answered_from_the_keyboard(
    tab: Opened, address: str, passed: list[str]
) -> None:
    """Choosing says nothing yet; the button does, where a screen reader hears it."""
    page = tab.page
    tab.show(1300)
    page.goto(f"{address}chapters/04_gates.html")
    tab.wrong.clear()
    box = page.locator("#question-1")
    said, told = box.get_by_role("status"), box.locator("details > p")
    assert box.get_by_role("group", name=re.compile(r"1\. What .*\?")).count() == 1
    box.get_by_role("button", name="Check").press("Enter")
    assert said.inner_text() == "Choose an answer first."
    box.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    assert box.get_by_role("radio").nth(1).is_checked()
    assert said.inner_text() == "Choose an answer first."
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert said.inner_text().startswith("B is ")
    assert said.text_content() == told.nth(1).text_content()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert said.text_content() == told.nth(0).text_content()
    page.evaluate(SAMPLE)
    page.evaluate("loadAxe()")
    for width, theme in VIEWS:
        tab.show(width, theme)
        asked = [STANDARD, OF_COLOUR, "#questions", passed]
        wrong, _ = page.evaluate(RUN_AXE, asked)
        assert wrong == [], (width, theme)
        small = page.eval_on_selector_all(
            ".selftest :is(label, button, summary)",
            "all => all.filter((e) => e.getBoundingClientRect().height < 44).length",
        )
        assert small == 0, (width, theme)
    assert tab.wrong == []


def test_questions_without_a_script(browser: Browser, address: str) -> None:
    """Nothing to press that would do nothing; the answer can be opened."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}chapters/04_gates.html")
    box = page.locator("#question-1")
    assert box.locator("label").first.is_visible()
    assert not box.locator("input, button").first.is_visible()
    box.locator("summary").click()
    assert box.locator("details > p").first.is_visible()
    context.close()


def test_pictures_turn_dark(tab: Opened, address: str, site: Path) -> None:
    """In the dark theme a figure's dark ink is turned round, on no ground."""
    path = next(p for p in PAGES if "<img" in (site / p).read_text("utf-8"))
    page = tab.page
    page.goto(address + path)
    tab.show(1300, "dark")
    style = page.eval_on_selector(
        "article img",
        "e => [getComputedStyle(e).filter, getComputedStyle(e).backgroundColor]",
    )
    assert "invert(1)" in style[0] and style[1] in {"rgba(0, 0, 0, 0)", "transparent"}


def test_search_finds_the_forget_gate(tab: Opened, address: str) -> None:
    page = tab.page
    page.goto(f"{address}search.html?q=forget+gate")
    found = page.locator("#search-results ul.search li a")
    found.first.wait_for()
    titles = found.all_inner_texts()
    quoted = page.locator("#search-results .context")
    quoted.first.wait_for()
    words = " ".join(quoted.all_inner_texts())
    assert "Contents" not in words and len(words) > 500, words
    assert any(re.match(r"\d+\. The gates", title) for title in titles), titles


def test_a_link_to_an_equation_leads_to_it(tab: Opened, address: str) -> None:
    """Also where it stands far below, in a section that is laid out late."""
    page = tab.page
    page.set_viewport_size({"width": 390, "height": 900})
    page.goto(f"{address}chapters/04_gates.html")
    last = page.eval_on_selector_all("div.math[id]", "all => all.at(-1).id")
    page.goto("about:blank")
    page.goto(f"{address}chapters/04_gates.html#{last}")
    page.locator(f"#{last}").wait_for()
    page.wait_for_function(
        f"""() => {{
          const box = document.getElementById("{last}").getBoundingClientRect();
          return box.top >= 0 && box.bottom <= innerHeight;
        }}"""
    )


@pytest.mark.parametrize("missing", ["no-such", "chapters/no-such.html", "a/b/c/"])
def test_wrong_addresses_get_a_page(
    browser: Browser, address: str, missing: str
) -> None:
    """The page has its style and working links at any depth."""
    page = browser.new_page()
    wrong: list[str] = []
    page.on("requestfailed", lambda sent: wrong.extend(lost(sent)))
    page.on(
        "response",
        lambda r: (
            wrong.append(r.url) if r.status != 200 and missing not in r.url else None
        ),
    )
    response = page.goto(address + missing)
    assert response and response.status == 404
    assert page.locator("article h1").inner_text() == "No such page"
    page.locator("article a").first.click()
    page.wait_for_load_state()
    assert page.title() == settings()["title"]
    page.close()
    assert wrong == []
