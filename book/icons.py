"""Cuts the theme's icon fonts down to the icons that the pages show."""

import logging
import re
from pathlib import Path

from fontTools import subset
from sphinx.application import Sphinx

FONTS = {"solid-900": ("Free", 900), "brands-400": ("Brands", 400)}
NAME = re.compile(r"\bfa-[a-z0-9-]+\b")
# A drop-down list of the theme shows this one from its style sheet.
DRAWN_BY_STYLE = 0xF107


def cut(app: Sphinx, error: Exception | None) -> None:
    """Write `icons.css` and the small fonts that it names."""
    if error:
        return
    static = Path(app.outdir) / "_static"
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    (source,) = (static / "vendor" / "fontawesome").iterdir()
    sheet = (source / "css" / "all.min.css").read_text("utf-8")
    used = {"fa-solid", "fa-brands"}
    for page in Path(app.outdir).rglob("*.html"):
        used |= set(NAME.findall(page.read_text("utf-8")))
    rules, drawn = [], {DRAWN_BY_STYLE}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}@]*)\}", sheet):
        names = set(NAME.findall(selectors.partition("*/")[2] or selectors))
        if not names & used or " " in selectors.strip():
            continue
        rules.append(f"{selectors}{{{body}}}")
        drawn |= {int(code, 16) for code in re.findall(r'content:"\\([0-9a-f]+)"', body)}
    for name, (family, weight) in FONTS.items():
        options = subset.Options(flavor="woff", ignore_missing_unicodes=True)
        font = subset.load_font(str(source / "webfonts" / f"fa-{name}.ttf"), options)
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=drawn)
        cutter.subset(font)
        subset.save_font(font, str(static / f"icons-{name}.woff"), options)
        rules.append(
            f'@font-face{{font-family:"Font Awesome 6 {family}";font-weight:{weight};'
            f'font-display:block;src:url("icons-{name}.woff") format("woff")}}'
        )
    (static / "icons.css").write_text("\n".join(rules) + "\n", "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension, after every page is written."""
    app.connect("build-finished", cut, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
