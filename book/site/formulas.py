"""Sets the formulas while the book is built, so that no page needs a script for it.

MathJax runs in the node that Playwright's wheel carries. A formula becomes boxes of
fixed size, which do not move when their font comes, and MathML for screen readers.
"""

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

from docutils import nodes
from playwright._impl._driver import compute_driver_executable
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LOGGER = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_suffix(".js")


def mathjax() -> Path:
    """The folder of MathJax, in the package that brings it."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("sphinx-mathjax-offline is missing; run make book")
    return Path(spec.origin).parent / "static" / "mathjax"


def typeset(formulas: list[tuple[str, bool]]) -> tuple[list[str], str]:
    """The HTML of formulas, each with whether it is displayed, and their style sheet.

    Raises
    ------
    RuntimeError
        MathJax itself failed. What it cannot set stands as ``mjx-merror`` in the HTML.
    """
    node, _ = compute_driver_executable()
    asked = [{"tex": tex, "display": display} for tex, display in formulas]
    run = subprocess.run(
        [node, str(SCRIPT), str(mathjax())],
        input=json.dumps(asked),
        capture_output=True,
        encoding="utf-8",
    )
    if run.returncode or not run.stdout:
        raise RuntimeError(f"{SCRIPT.name} set no formulas: {run.stderr}")
    answer = json.loads(run.stdout)
    return answer["formulas"], answer["sheet"]


class Formulas(SphinxTransform):
    """Sets every formula of a page, once its numbers are known."""

    default_priority = 410

    def apply(self, **kwargs: Any) -> None:
        """Keep the HTML with the formula, and the style sheet with the page."""
        kinds = (nodes.math, nodes.math_block)
        found = [n for n in self.document.findall() if isinstance(n, kinds)]
        if not found:
            return
        html, sheet = typeset(
            [(node.astext(), isinstance(node, nodes.math_block)) for node in found]
        )
        for node, text in zip(found, html, strict=True):
            if "<mjx-merror" in text or "<mjx-utext" in text:
                LOGGER.warning("cannot set %s", node.astext(), location=node)
            node["html"] = text
        self.env.metadata[self.env.docname]["formulas"] = sheet


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula that stands in a line."""
    self.body.append(f'<span class="math">{node["html"]}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula that stands alone."""
    self.body.append(self.starttag(node, "div", CLASS="math") + node["html"])
    self.body.append("</div>\n")
    raise nodes.SkipNode


def write_sheet(app: Sphinx, env: BuildEnvironment) -> None:
    """Write one style sheet for the formulas of all pages, and copy the fonts."""
    rules: dict[str, None] = {}
    for page in sorted(env.found_docs):
        sheet = env.metadata[page].get("formulas", "")
        rules |= dict.fromkeys(sheet.strip().split("\n\n"))
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    # The boxes have their size without the font, so a page need not wait for it.
    text = "\n".join(rules).replace("src: url", "font-display: swap;\n  src: url")
    (static / "formulas.css").write_text(text + "\n", "utf-8")
    fonts = mathjax() / "output" / "chtml" / "fonts" / "woff-v2"
    shutil.copytree(fonts, static / "fonts", dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, int]:
    """Connect the extension; pages are read anew when it changes."""
    app.add_transform(Formulas)
    app.add_html_math_renderer(
        "typeset",
        inline_renderers=(visit_inline, None),
        block_renderers=(visit_block, None),
    )
    app.add_css_file("formulas.css")
    app.connect("env-updated", write_sheet)
    return {
        "env_version": crc32(SCRIPT.read_bytes() + Path(__file__).read_bytes()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
