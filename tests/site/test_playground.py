"""The playground in Chromium: its numbers are the library's, and everybody can use it."""

# ruff: noqa: F811

import base64
import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

import hlstm
from tests.site.test_browser import (  # noqa: F401
    AXE,
    FRAMES,
    OF_COLOUR,
    OVERFLOW,
    RUN_AXE,
    STANDARD,
    address,
    browser,
    watch,
)

PAGE = "playground.html"
PANEL = "chapters/13_sampling.html"
WEIGHTS = "_static/playground/weights.safetensors"
TEXT = (
    "KING RICHARD III:\nNow is the winter of our discontent\nMade glorious — by this!\n"
)
# Nothing stays but the panel and what it stands in.
PANEL_ALONE = """() => {
  let e = document.querySelector("#playground");
  for (; e !== document.body; e = e.parentElement)
    for (const other of [...e.parentElement.children]) if (other !== e) other.remove();
}"""
# Runs in the page, on the weights that it loads; `lib` has the worker's functions.
IN_PAGE = """async (given) => {{
  const lib = hlstmNetwork();
  const net = new lib.Network(await (await fetch("{weights}")).arrayBuffer());
  {body}
}}"""


@pytest.fixture(scope="module")
def weights(site: Path) -> Path:
    return site / WEIGHTS


@pytest.fixture(scope="module")
def net(weights: Path) -> hlstm.DeepRNN:
    return hlstm.load_int8(weights)


class Tab(NamedTuple):
    """A tab, and what goes wrong in it."""

    page: Page
    wrong: list[str]
    address: str


@pytest.fixture(scope="module")
def tab(browser: Browser, address: str) -> Iterator[Tab]:
    """One tab for one test after the other, each of which loads its page anew."""
    page = browser.new_page()
    yield Tab(page, watch(page, address), address)
    page.close()


@contextmanager
def playground(
    tab: Tab,
    path: str = PAGE,
    motion: Literal["reduce", "no-preference"] = "no-preference",
) -> Iterator[Page]:
    """A page with a network that is ready; afterwards, that nothing went wrong in it."""
    page = tab.page
    page.set_viewport_size({"width": 1300, "height": 900})
    page.emulate_media(color_scheme="light", reduced_motion=motion)
    tab.wrong.clear()
    page.goto(tab.address + path, wait_until="load")
    if path == PANEL:
        page.click("button.load")
    wait_for_status(page, "Ready")
    yield page
    assert tab.wrong == []


@pytest.fixture(scope="module")
def shared(browser: Browser, address: str) -> Iterator[Page]:
    """One page for the tests that only compute."""
    page = browser.new_page()
    with playground(Tab(page, watch(page, address), address)):
        yield page
    page.close()


def compute(page: Page, body: str, given: object = None) -> Any:
    """What JavaScript returns that runs with `lib`, `net` and `given`."""
    return page.evaluate(IN_PAGE.format(weights=WEIGHTS, body=body), given)


def wait_for_status(page: Page, start: str) -> str:
    """Wait until the status line begins with `start`; the line."""
    page.wait_for_function(
        "s => document.querySelector('.status').textContent.startsWith(s)", arg=start
    )
    return str(page.text_content(".status"))


def written(page: Page) -> str:
    """What the network has written after the prompt, once it is on the page."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    return str(page.text_content(".text span"))


def bars(page: Page) -> dict[str, float]:
    """The shown probabilities by name."""
    rows = page.locator(".next tbody tr").all_inner_texts()
    return {name: float(p) for name, p in (re.split(r"\s+(?=\S+$)", r) for r in rows)}


def move(page: Page, name: str, value: object) -> None:
    """Give an input a value as a hand on the mouse does: `input`, without `change`."""
    page.locator(f"[name={name}]").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value)
    )


def write(page: Page, length: int) -> str:
    """Run from the prompt until `length` characters are there; these."""
    page.click("[name=reset]")
    wait_for_status(page, "Ready")
    page.select_option("[name=pace]", "0")
    page.click("[name=run]")
    page.wait_for_function(
        "n => document.querySelector('.text span').textContent.length >= n", arg=length
    )
    page.click("[name=run]")
    wait_for_status(page, "Paused")
    return written(page)[:length]


# The weights


def test_the_weights_are_the_librarys_in_a_megabyte(
    weights: Path, net: hlstm.DeepRNN, tmp_path: Path
) -> None:
    assert weights.stat().st_size <= 1_000_000
    hlstm.save_int8(hlstm.load_pretrained("shakespeare"), tmp_path / "again")
    again = hlstm.load_int8(tmp_path / "again").state_dict()
    assert all(torch.equal(again[k], t) for k, t in net.state_dict().items())
    script = weights.with_name("weights.js").read_text()
    encoded = re.fullmatch(r'globalThis\.hlstmWeights = "(.+)";\n', script)
    assert encoded and base64.b64decode(encoded[1]) == weights.read_bytes()


# The numbers


def test_logits_equal_pytorchs(shared: Page, net: hlstm.DeepRNN) -> None:
    text = TEXT * 4
    body = "return net.encode(given).map((id) => [...net.read(id)]);"
    mine = torch.tensor(compute(shared, body, text))
    theirs = net(net.vocab.encode(text)[None])[0][0].detach()
    difference = float((mine - theirs).abs().max())
    print(f"largest difference of {mine.numel()} logits: {difference:.1e}")
    assert mine.shape == theirs.shape and difference < 1e-3


def test_gates_equal_the_librarys(shared: Page, net: hlstm.DeepRNN) -> None:
    body = """net.encode(given).forEach((id) => net.read(id));
      return net.layers.map(({ gates }) => [..."ifgoc"].map((n) => [...gates[n]]));"""
    mine = torch.tensor(compute(shared, body, TEXT))
    ids = net.vocab.encode(TEXT)[None]
    with torch.no_grad():
        _, (h, c) = net(ids[:, :-1])
        x = hlstm.one_hot(ids[0, -1:], len(net.vocab))
        for k in range(2):
            cell = hlstm.LSTMCell(x.shape[1], 256)
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            cell.load_state_dict({n: getattr(net.lstm, f"{n}_l{k}") for n in names})
            a = x @ cell.weight_ih.T + h[k] @ cell.weight_hh.T
            gates = hlstm.gates.gate_activations(a + cell.bias_ih + cell.bias_hh)
            x, memory = hlstm.gates.update_state(gates, c[k])
            expected = torch.cat([*gates, memory])
            torch.testing.assert_close(mine[k], expected, rtol=0, atol=1e-3)


def test_the_distribution_is_the_librarys(shared: Page) -> None:
    torch.manual_seed(0)
    distinct = torch.randn(76, dtype=torch.float64) * 3
    tied = distinct.clone()
    tied[:3] = 9.0  # which of them a cut keeps is not specified
    cases = list(
        itertools.product((0, 1e-30, 0.3, 1, 2), (None, 2, 5, 76), (None, 0.2, 0.9, 1))
    )
    body = """const z = Float64Array.from(given.logits);
      return given.cases.map(([temperature, topK, topP]) => {
        const p = lib.nextCharacter(z, { temperature, topK, topP });
        return [...p, lib.entropy(p)];
      });"""
    for logits in (distinct, tied):
        found = compute(shared, body, {"logits": logits.tolist(), "cases": cases})
        for case, (*numbers, nats) in zip(cases, found, strict=True):
            p = hlstm.sampling.next_distribution(logits, *case)
            mine = torch.tensor(numbers, dtype=torch.float64)
            if logits is tied:
                p, mine = p.sort().values, mine.sort().values
            assert (mine - p).abs().max() < 1e-9, case
            assert abs(nats - float(hlstm.sampling.entropy(p))) < 1e-9, case


def test_draws_have_their_frequencies(shared: Page) -> None:
    p, n = [0.0, 0.5, 0.25, 0.0, 0.2, 0.05, 0.0], 40_000
    body = """return [1, 2].map((seed) => {
      const next = lib.randomNumbers(seed);
      return Array.from({ length: given.n }, () => lib.draw(given.p, next()));
    });"""
    first, second = compute(shared, body, {"p": p, "n": n})
    for draws in (first, second):
        for symbol, share in enumerate(p):
            error = 5 * (share * (1 - share) / n) ** 0.5
            assert abs(draws.count(symbol) / n - share) <= error
    same = sum(q * q for q in p)
    for lag in (0, 1):  # neither seeds nor neighbours go together
        pairs = zip(first[lag:], second if lag == 0 else first, strict=False)
        assert abs(sum(a == b for a, b in pairs) / n - same) < 5 * (same / n) ** 0.5


# The page


def test_bars_and_entropy_follow_the_slider(tab: Tab, net: hlstm.DeepRNN) -> None:
    logits = net(net.vocab.encode("ROMEO:\n")[None])[0][0, -1].detach()
    names = {" ": "space", "\n": "line end"}
    with playground(tab) as page:
        move(page, "topP", 0.95)
        move(page, "topK", 30)
        for temperature in (0.3, 1.0, 1.7, 0):
            p = hlstm.sampling.next_distribution(logits, temperature, 30, 0.95)
            nats = float(hlstm.sampling.entropy(p))
            move(page, "temperature", temperature)
            page.wait_for_function(
                "s => Math.abs(parseFloat("
                "document.querySelector('.entropy b').textContent) - s) < 2e-3",
                arg=nats,
            )
            shown = bars(page)
            for j in p.topk(3).indices.tolist():
                symbol = net.vocab.symbols[j]
                if p[j] > 0.01:
                    found = shown[names.get(symbol, symbol)]
                    assert abs(found - float(p[j])) < 1.5e-3, (temperature, symbol)
            assert len(shown) == 13 and abs(sum(shown.values()) - 1) < 0.01
            bits = re.findall(r"[\d.]+", page.inner_text(".entropy"))[1]
            assert abs(float(bits) - nats / 0.693147) < 3e-3
            assert page.inner_text(".value") == f"{temperature:.2f}"


def test_bars_follow_the_slider_while_the_network_writes(tab: Tab) -> None:
    with playground(tab) as page:
        page.click("[name=run]")
        wait_for_status(page, "Running")
        move(page, "temperature", 0)
        page.wait_for_function(
            "document.querySelector('.next tbody td').innerText === '1.000'"
        )
        assert page.inner_text("[name=run]") == "Pause"


def test_the_same_seed_writes_the_same_text(tab: Tab) -> None:
    with playground(tab) as page:
        first, again = write(page, 300), write(page, 300)
        move(page, "seed", 8)
        other = write(page, 300)
        assert first == again != other
        page.fill("[name=seed]", "0")
        wait_for_status(page, "Ready")
        assert written(page) == ""
        for length in (1, 2, 3):
            page.click("[name=step]")
            wait_for_status(page, f"{length} written")
        assert written(page) == first[:3]
        assert page.text_content(".text b") == "ROMEO:\n"


def test_a_refused_prompt_stops_the_network(tab: Tab) -> None:
    """What has been asked of the worker before does not reach it without a text."""
    with playground(tab) as page:
        page.select_option("[name=pace]", "0")
        page.click("[name=run]")
        wait_for_status(page, "Running")
        page.fill("[name=prompt]", "É")
        assert "U+00C9" in wait_for_status(page, "Not accepted")
        page.fill("[name=prompt]", "A")
        page.click("[name=step]")
        wait_for_status(page, "1 written")


def test_the_network_runs_beside_the_page(tab: Tab) -> None:
    """The page's own thread calls nothing of the network, and draws once a frame at most."""
    watch = """() => {
      const box = document.querySelector(".next");
      window.counts = { draws: 0, frames: 0, calls: 0 };
      window.hlstmNetwork = () => { counts.calls++; throw new Error("in the page"); };
      new MutationObserver(() => counts.draws++)
        .observe(box, { subtree: true, childList: true });
      const frame = () => { counts.frames++; requestAnimationFrame(frame); };
      requestAnimationFrame(frame); }"""
    with playground(tab) as page:
        assert len(page.workers) == 1
        page.evaluate(watch)
        page.select_option("[name=pace]", "0")
        page.click("[name=run]")
        page.wait_for_function("counts.draws >= 10")
        # It answers before the network is done with what it was asked to write.
        page.click("[name=run]")
        end = wait_for_status(page, "Paused after")
        counts = page.evaluate("counts")
        assert counts["calls"] == 0 and counts["draws"] <= counts["frames"] + 1
        assert len(written(page)) > counts["draws"], end


def test_gates_are_shown_in_a_map_and_in_a_table(tab: Tab, net: hlstm.DeepRNN) -> None:
    with playground(tab) as page:
        move(page, "units", "3, 250-255")
        page.select_option("[name=gate]", "c")
        page.select_option("[name=layer]", "0")
        page.click("summary")
        page.wait_for_function(
            "document.querySelector('details tbody')?.rows[6]?.cells[0].innerText === '255'"
        )
        ids = net.vocab.encode("ROMEO:\n")[None]
        units = [3, *range(250, 256)]
        expected = [net(ids[:, :t])[1][1][0, 0, units].detach() for t in (1, 7)]
        rows = page.locator("details tbody tr").all_inner_texts()
        table = torch.tensor([[float(v) for v in row.split()] for row in rows])
        assert table[:, 0].tolist() == units
        assert (table[:, [1, 7]] - torch.stack(expected, 1)).abs().max() < 0.006
        label = str(page.get_attribute("canvas", "aria-label"))
        assert "memory c of 7 units of layer 1 over the last 7 characters" in label
        drawn = """() => { const c = document.querySelector("canvas");
          const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height);
          return new Set(new Uint32Array(data.buffer)).size; }"""
        assert page.evaluate(drawn) > 20
        page.click("[name=rank]")
        page.wait_for_function("document.querySelector('details tbody').rows[11]")
        assert page.input_value("[name=units]").count(",") == 11


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prompt", "ROMÉO", r"'É' \(U\+00C9, first at position 3\)"),
        ("prompt", "a😀", r"U\+1F600, first at position 1"),
        ("prompt", "", "the prompt is empty"),
        ("topK", "77", "top-k is a whole number from 1 to 76, or empty, and got 77"),
        ("topK", "1.5", "whole number"),
        ("topP", "0", "top-p is a number from 0.01 to 1"),
        ("seed", "-1", "seed is a whole number from 0 to 4294967295, and got -1"),
        ("units", "9-300", "units run from 0 to 255"),
        ("units", "x", "units are numbers and ranges"),
        ("units", "0-99", "at most 24 units"),
    ],
)
def test_what_cannot_be_is_named(
    shared: Page, name: str, value: str, message: str
) -> None:
    good = shared.input_value(f"[name={name}]")
    shared.fill(f"[name={name}]", value)
    status = wait_for_status(shared, "Not accepted")
    assert re.search(message, status), status
    assert shared.get_attribute(f"[name={name}]", "aria-invalid") == "true"
    assert shared.is_disabled("[name=run]") and shared.is_disabled("[name=step]")
    shared.fill(f"[name={name}]", good)
    shared.wait_for_selector("[name=run]:enabled")
    assert shared.get_attribute(f"[name={name}]", "aria-invalid") is None
    assert "Not accepted" not in str(shared.text_content(".status"))


# Everybody


def test_the_keyboard_reaches_everything(tab: Tab) -> None:
    focused = """() => { const e = document.activeElement, s = getComputedStyle(e);
      return [e.name || e.className || e.tagName, s.outlineStyle, s.outlineWidth]; }"""
    with playground(tab) as page:
        page.focus("[name=prompt]")
        order = []
        for _ in range(15):
            name, style, width = page.evaluate(focused)
            assert style != "none" and float(width.removesuffix("px")) >= 2, name
            order.append(name.lower())
            page.keyboard.press("Tab")
        controls = "prompt temperature topk topp seed pace run step reset text".split()
        assert order == [*controls, "layer", "gate", "units", "rank", "summary"]
        page.focus("[name=temperature]")
        page.keyboard.press("ArrowRight")
        assert page.inner_text(".value") == "0.81"
        page.focus("[name=step]")
        page.keyboard.press("Enter")
        wait_for_status(page, "1 written")
        page.focus("[name=run]")
        page.keyboard.press("Space")
        wait_for_status(page, "Running")
        page.keyboard.press("Space")
        wait_for_status(page, "Paused after")


def test_states_are_announced_and_little_else(tab: Tab) -> None:
    with playground(tab) as page:
        assert page.get_attribute(".status", "role") == "status"
        page.evaluate("""() => { window.told = [];
          const line = document.querySelector(".status");
          new MutationObserver(() => told.push(line.textContent))
            .observe(line, { childList: true, subtree: true, characterData: true }); }""")
        page.click("[name=run]")
        page.wait_for_timeout(1200)
        page.click("[name=run]")
        end = wait_for_status(page, "Paused after")
        assert page.evaluate("told") == ["Running.", end]
        assert end.endswith(written(page)[-200:]) and len(written(page)) > 5
        live = page.locator("#playground [aria-live], #playground output").count()
        assert live == 0, "only the status line speaks"


def test_reduced_motion_is_honoured(tab: Tab) -> None:
    changes = """() => new Promise((done) => {
      let count = 0;
      new MutationObserver(() => count++).observe(
        document.querySelector(".text span"), { childList: true });
      setTimeout(() => done(count), 1500);
    })"""
    counts = {}
    motions: tuple[Literal["reduce"], Literal["no-preference"]]
    motions = ("reduce", "no-preference")
    for motion in motions:
        with playground(tab, motion=motion) as page:
            page.click("[name=run]")
            wait_for_status(page, "Running")
            counts[motion] = page.evaluate(changes)
            duration = "e => getComputedStyle(e).transitionDuration"
            # A bar that glides shows no distribution while the network writes.
            assert page.locator(".bar").first.evaluate(duration) == "0s"
    assert 1 <= counts["reduce"] <= 5 < counts["no-preference"]


@pytest.mark.parametrize(
    ("path", "themes"), [(PAGE, ("light", "dark")), (PANEL, ("dark",))]
)
def test_no_rule_of_wcag_is_broken(
    tab: Tab, path: str, themes: tuple[Literal["light", "dark"], ...]
) -> None:
    """The whole page; of the chapter the panel alone."""
    with playground(tab, path) as page:
        page.evaluate(AXE)
        page.add_style_tag(content="* { transition: none !important }")
        for running in (False, True):
            if running:
                page.click("[name=run]")
                wait_for_status(page, "Running")
            for width in (1300, 390, 320):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate(OVERFLOW) <= 0, (running, width)
            page.mouse.move(0, 0)
            if path == PANEL:
                if not running:
                    continue
                page.evaluate(PANEL_ALONE)
            for width, theme in itertools.product((390, 1300), themes):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme=theme)
                page.evaluate(FRAMES)
                # What has no colour does not depend on the theme.
                part = "html" if path == PAGE else "#playground"
                scope = part if theme == themes[0] else None
                wrong, _ = page.evaluate(RUN_AXE, [STANDARD, OF_COLOUR, scope, []])
                assert wrong == [], (running, width, theme)
            if path == PAGE and not running:
                page.click("summary")


def test_without_javascript_there_are_texts_and_a_figure(
    browser: Browser, address: str
) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + PAGE)
    shown = page.inner_text("article")
    soup = BeautifulSoup(page.content(), "html.parser")
    assert "JavaScript is off" in shown
    assert not page.locator("#playground form").first.is_visible()
    picture = page.locator("figure img")
    assert picture.is_visible() and "what light th" in str(picture.get_attribute("alt"))
    samples = [p.get_text() for p in soup.select(".playground-samples p")]
    assert len(samples) == 3 and len(set(samples)) == 3
    assert all(t.startswith("ROMEO:\n") and len(t) > 200 for t in samples)
    assert [f"τ = {t}" in shown for t in (0.5, 1.0, 1.5)] == [True] * 3
    context.close()


def test_it_works_from_a_disk(browser: Browser, site: Path) -> None:
    page = browser.new_page()
    page.goto((site / PAGE).as_uri())
    wait_for_status(page, "Ready")
    page.click("[name=step]")
    wait_for_status(page, "1 written")
    page.close()


def test_a_failed_download_is_told(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.route("**/weights.safetensors", lambda route: route.fulfill(status=404))
    page.goto(address + PAGE)
    line = wait_for_status(page, "The network could not be loaded")
    assert "404" in line and "Reload" in line
    page.close()


def test_the_panel_loads_its_weights_when_asked(browser: Browser, address: str) -> None:
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    wrong = watch(page, address)
    page.goto(address + PANEL, wait_until="load")
    assert wrong == []
    assert not any("weights" in url for url in requests)
    assert page.is_disabled("#playground [name=run]")
    page.click("button.load")
    wait_for_status(page, "Ready")
    assert sum("weights" in url for url in requests) == 1
    assert page.evaluate("document.activeElement.name") == "prompt"
    page.click("[name=step]")
    wait_for_status(page, "1 written")
    assert len(bars(page)) == 13 and page.locator("canvas").count() == 0
    page.close()
