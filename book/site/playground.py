"""The playground's Sphinx extension: it fills the marks in pages, and writes the weights.

A page, or a Markdown cell of a chapter, has the place in raw HTML:

    <div class="playground" data-form="page"></div>

`page` is the whole playground, `panel` a small one that loads its weights at the push of
a button, and `samples` a figure and three texts that need no JavaScript.
"""

import base64
import html
import io
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

TEMPLATE = Path(__file__).with_suffix(".html")
MARK = re.compile(r'<div class="playground" data-form="(page|panel|samples)"></div>')
SCRIPTS = ("network.js", "worker.js", "playground.js")
PROMPT = "ROMEO:\nBut, soft! what light th"
TEMPERATURES = (0.5, 1.0, 1.5)


@cache
def weights() -> bytes:
    """The pretrained network's file with weights of one byte."""
    import hlstm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        hlstm.save_int8(hlstm.load_pretrained("shakespeare"), path)
        return path.read_bytes()


def controls(form: str) -> str:
    """The HTML of the whole playground, or of a chapter's panel."""
    other = "panel" if form == "page" else "page"
    source = TEMPLATE.read_text("utf-8")
    source = re.sub(rf"<!-- {other} -->.*?<!-- /{other} -->\n?", "", source, flags=re.S)
    source = source.replace("<!-- size -->", f"{len(weights()) / 1e6:.2f}")
    return re.sub(r"<!-- /?\w+ -->\n?", "", source)


def samples() -> str:
    """A figure of three distributions, and a text drawn at each temperature, in HTML."""
    import hlstm

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        path.write_bytes(weights())
        net = hlstm.load_int8(path)
    logits, _ = net(net.vocab.encode(PROMPT)[None])
    shares = {
        t: hlstm.sampling.next_distribution(logits[0, -1].detach(), t)
        for t in TEMPERATURES
    }
    picture, told = figure(net.vocab.symbols, shares)
    source = base64.b64encode(picture).decode()
    parts = [
        f'<figure class="align-center"><img alt="{html.escape(told)}" '
        f'src="data:image/svg+xml;base64,{source}"></figure>',
        '<div class="playground-samples">',
    ]
    for t in TEMPERATURES:
        text = net.generate_text("ROMEO:\n", 240, temperature=t, seed=0)
        parts.append(f"<div><h3>τ = {t}</h3>\n<p>{html.escape(text)}</p></div>")
    return "\n".join([*parts, "</div>"])


def figure(symbols: tuple[str, ...], shares: dict[float, Any]) -> tuple[bytes, str]:
    """The likeliest next characters at each temperature, as SVG, and in words."""
    import matplotlib.pyplot as plt

    names = {" ": "space", "\n": "line end"}
    order = shares[1.0].argsort(descending=True)[:8].tolist()
    with plt.style.context("hlstm.book"):
        fig, ax = plt.subplots(figsize=(7, 3))
        for k, (t, hatch) in enumerate(zip(shares, ("", "//", "\\\\"), strict=True)):
            places = [j + 0.27 * k for j in range(len(order))]
            ax.bar(places, shares[t][order], 0.25, hatch=hatch, label=f"τ = {t}")
        ax.set_xticks([j + 0.27 for j in range(len(order))])
        ax.set_xticklabels([names.get(symbols[j], symbols[j]) for j in order])
        ax.set(ylabel="probability")
        ax.grid(axis="x", visible=False)
        ax.legend()
        file = io.BytesIO()
        fig.savefig(file, format="svg", metadata={"Date": None})
        plt.close(fig)
    first = symbols[order[0]]
    told = ", ".join(f"{shares[t][order[0]]:.2f} at τ = {t}" for t in shares)
    place = PROMPT.splitlines()[-1]
    return file.getvalue(), (
        f"Bars of the eight likeliest characters after “{place}” at three temperatures. "
        f"The first, “{names.get(first, first)}”, has the probability {told}."
    )


class Playgrounds(SphinxTransform):
    """Puts the playground where a page has its mark."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Replace the marks in this page's raw HTML."""
        for raw in self.document.findall(nodes.raw):
            if match := MARK.fullmatch(raw.astext().strip()):
                form = match[1]
                filled = samples() if form == "samples" else controls(form)
                raw.children = [nodes.Text(filled)]
                for path in (Path(__file__), TEMPLATE):
                    self.env.note_dependency(str(path))


def load(app: Sphinx, page: str, template: str, context: Any, doctree: Any) -> None:
    """Give scripts and styles to the pages that have a playground."""
    if 'class="playground' in context.get("body", ""):
        app.add_css_file("playground/playground.css")
        for name in SCRIPTS:
            app.add_js_file(f"playground/{name}", loading_method="defer")


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the weights into the site, and once more as a script.

    A page that is opened from a disk may load a script, but not read a file.
    """
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "playground"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(weights())
        text = base64.b64encode(weights()).decode()
        (folder / "weights.js").write_text(f'globalThis.hlstmWeights = "{text}";\n')


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("html-page-context", load)
    app.connect("build-finished", write)
    app.add_transform(Playgrounds)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
