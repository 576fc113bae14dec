"""Measure the playground's network in Chromium beside the library's, character by character.

    python -m benchmarks.playground

Both write one text with one thread, in turns on the same machine. What counts is the
ratio: what a machine does in a second says how busy it is.
"""

import statistics
import time

import torch
from playwright.sync_api import sync_playwright

import hlstm
from book import ROOT
from book.tools.host import chromium, serve

SITE = ROOT / "_build" / "html"
LENGTH = 1000
ROUNDS = 7
# The least share of the library's readable loop, and the least anybody should see.
LEAST = 0.5
LOAD = """async () => {
  const file = await fetch("_static/playground/weights.safetensors");
  window.library = hlstmNetwork();
  window.net = new library.Network(await file.arrayBuffer());
}"""
WRITE = """(length) => {
  const settings = { temperature: 0.8 }, random = library.randomNumbers(0);
  net.reset();
  let logits, [id] = net.encode("R");
  const begin = performance.now();
  for (let k = 0; k < length; k++) {
    logits = net.read(id);
    id = library.draw(library.nextCharacter(logits, settings), random());
  }
  return (performance.now() - begin) / 1000;
}"""


def main() -> None:
    """Print characters a second for each, and the ratios."""
    if not (SITE / "playground.html").exists():
        print("the playground is not measured: the site is not built, run make book")
        return
    torch.set_num_threads(1)
    net = hlstm.load_int8(SITE / "_static" / "playground" / "weights.safetensors")
    seconds: dict[str, list[float]] = {"page": [], "reference": [], "auto": []}
    with serve(SITE) as address, sync_playwright() as playwright:
        browser = chromium(playwright)
        page = browser.new_page()
        page.goto(f"{address}playground.html")
        page.evaluate(LOAD)
        page.evaluate(WRITE, LENGTH)
        for _ in range(ROUNDS):
            seconds["page"].append(page.evaluate(WRITE, LENGTH))
            for engine in ("reference", "auto"):
                net.lstm.engine = engine
                begin = time.perf_counter()
                net.generate_text("R", LENGTH, temperature=0.8, seed=0)
                seconds[engine].append(time.perf_counter() - begin)
        browser.close()
    rates = {name: LENGTH / statistics.median(each) for name, each in seconds.items()}
    share = rates["page"] / rates["reference"]
    print("Writing, two layers of 256, one thread; characters per second")
    print(f"  {', '.join(f'{name} {rate:,.0f}' for name, rate in rates.items())}")
    print(f"  page / auto {rates['page'] / rates['auto']:.2f}")
    verdict = "met" if share >= LEAST else "NOT met"
    print(f"  page / reference {share:.2f} of {LEAST}, {verdict}")


if __name__ == "__main__":
    main()
