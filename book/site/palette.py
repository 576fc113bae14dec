"""The book's colours, declared once in hlstm/book.mplstyle, for style sheets and drawings.

    python -m book.site.palette    write them into the drawing of the cell

Figures take them from the style itself. The site gets custom properties, `--book-memory`
and so on, for each theme; a drawing that GitHub shows too has to hold its colours itself.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sphinx.application import Sphinx
from sphinx.config import Config

from book import ROOT

STYLE = ROOT / "hlstm" / "book.mplstyle"
PALETTE: list[str] = mpl.rc_params_from_file(STYLE, use_default_template=False)[
    "axes.prop_cycle"
].by_key()["color"]
# What each colour of the cycle stands for where a part of the cell is drawn.
ROLES = ("memory", "forget", "input", "new", "output", "ink")
DRAWING = ROOT / "book" / "site" / "static" / "cell.svg"
BLOCK = re.compile(r"<style>.*?</style>", re.DOTALL)
# What book.css does to a figure in the dark theme, invert(1) hue-rotate(180deg), as the
# matrix that CSS Filter Effects gives for sRGB.
TURNED = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def rgb(colour: str) -> np.ndarray:
    """A colour as sRGB in [0, 1]."""
    return np.array(mpl.colors.to_rgb(colour))


def in_the_dark(colour: str) -> np.ndarray:
    """A colour as the dark theme shows it in a figure, sRGB in [0, 1]."""
    return np.clip((1 - rgb(colour)) @ TURNED.T, 0, 1)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light for sRGB values."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: np.ndarray, other: np.ndarray) -> float:
    """The contrast of two sRGB colours, from 1 to 21; WCAG 2.2."""
    dark, light = sorted([linear(one) @ LUMINANCE, linear(other) @ LUMINANCE])
    return float((light + 0.05) / (dark + 0.05))


def under_white_text(colour: str) -> str:
    """The colour, darkened until white letters on it have a contrast of 4.5."""
    shade = rgb(colour)
    while contrast(shade, np.ones(3)) < 4.5:
        shade = shade * 0.99
    return hexadecimal(shade)


def hexadecimal(srgb: Sequence[float] | np.ndarray) -> str:
    """A colour as style sheets write it."""
    return str(mpl.colors.to_hex(tuple(srgb)))


def sheet() -> str:
    """Custom properties for each theme."""
    lines = []
    for theme in ("light", "dark"):
        lines.append(f'html[data-theme="{theme}"] {{')
        for role, colour in zip(ROLES, PALETTE, strict=True):
            shown = rgb(colour) if theme == "light" else in_the_dark(colour)
            lines.append(f"  --book-{role}: {hexadecimal(shown)};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def drawing_style() -> str:
    """The colours of the drawing: lines as they are, boxes dark enough for their words."""
    boxes = dict(zip(ROLES, map(under_white_text, PALETTE), strict=True))
    line = boxes["memory"]
    rules = [f".memory-line{{stroke:{line}}}", f".memory{{fill:{line}}}"]
    rules += [f".{role}{{fill:{boxes[role]}}}" for role in ROLES[1:5]]
    return f"<style>{''.join(rules)}</style>"


def drawn(text: str) -> str:
    """A drawing with its colours in step."""
    return BLOCK.sub(lambda _: drawing_style(), text)


def write_sheet(app: Sphinx, config: Config) -> None:
    """Give the site a style sheet of custom properties."""
    folder = Path(app.outdir).parent / "palette"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "palette.css"
    if not path.exists() or path.read_text("utf-8") != sheet():
        path.write_text(sheet(), "utf-8")
    config.html_static_path.append(str(folder))
    config.html_css_files.insert(0, path.name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("config-inited", write_sheet)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    DRAWING.write_text(drawn(DRAWING.read_text("utf-8")), "utf-8", newline="\n")
