"""Figures: lines as SVG, words for those who do not see them, colours for all who do."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode

from book import ROOT
from book.notebooks.reader import code_cells, split_directives
from book.site.palette import (
    DRAWING,
    PALETTE,
    contrast,
    drawn,
    in_the_dark,
    linear,
    rgb,
    sheet,
    under_white_text,
)

# The light ground, and the theme's dark one.
WHITE, DARK = np.ones(3), np.array([0x14, 0x18, 0x1E]) / 255
# Colour vision without one kind of cone, on linear RGB: Machado, Oliveira and Fernandes
# (2009), table 1, severity 1.
SIGHT = {
    "all": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def colours(theme: str) -> np.ndarray:
    """The palette as a page of the theme shows it, sRGB in [0, 1]."""
    show = rgb if theme == "light" else in_the_dark
    return np.array([show(colour) for colour in PALETTE])


def lab(light: np.ndarray) -> np.ndarray:
    """CIE L*a*b* under D65 for linear RGB."""
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    x, y, z = (light @ np.array(to_xyz).T / [0.9505, 1, 1.089]).T
    fx, fy, fz = (
        np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z)
    )
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], axis=1)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stay_apart(theme: str, sight: str) -> None:
    """Five times what an eye tells apart side by side (CIE 1976, about 2.3)."""
    seen = lab(np.clip(linear(colours(theme)) @ SIGHT[sight].T, 0, 1))
    for (i, one), (j, other) in itertools.combinations(enumerate(seen), 2):
        assert np.linalg.norm(one - other) >= 12, (PALETTE[i], PALETTE[j])


@pytest.mark.parametrize(("theme", "ground"), [("light", WHITE), ("dark", DARK)])
def test_colours_stand_out(theme: str, ground: np.ndarray) -> None:
    """WCAG 2.2, 1.4.11: graphics have a contrast of at least 3 with their ground."""
    for name, colour in zip(PALETTE, colours(theme), strict=True):
        assert contrast(colour, ground) >= 3, name


def test_the_palette_is_declared_once(tracked: list[str]) -> None:
    """Everything takes its colours from the style; greys and ink are no data."""
    assert len(PALETTE) == 6
    own = {colour.lstrip("#").lower() for colour in PALETTE[:5]}
    own |= {under_white_text(colour).lstrip("#") for colour in PALETTE[:5]}
    kinds = (".ipynb", ".py", ".mplstyle", ".css", ".js", ".html", ".md", ".svg")
    named = {
        path
        for path in tracked
        for colour in own
        if path.endswith(kinds) and colour in (ROOT / path).read_text("utf-8").lower()
    }
    # GitHub shows the drawing too, so it holds what a program has written into it.
    drawing = DRAWING.relative_to(ROOT).as_posix()
    assert named == {"hlstm/book.mplstyle", drawing}


def test_the_drawing_has_the_colours_of_the_palette() -> None:
    text = DRAWING.read_text("utf-8")
    assert drawn(text) == text, "run python -m book.site.palette"
    outside = re.sub("<style>.*?</style>", "", text)
    for grey in re.findall(r"#([0-9a-f]{6})\b", outside):
        assert grey[:2] == grey[2:4] == grey[4:], grey


def test_style_sheets_have_the_colours_of_each_theme() -> None:
    assert f"--book-memory: {PALETTE[0].lower()};" in sheet().lower()
    assert sheet().count("--book-") == 2 * len(PALETTE)


def test_chapters_use_the_style_and_draw_lines(
    notebooks: dict[str, NotebookNode],
) -> None:
    for name, notebook in notebooks.items():
        code = "\n".join(
            split_directives(cell.source)[1] for cell in code_cells(notebook)
        )
        if "plt." in code:
            assert 'plt.style.use("hlstm.book")' in code, name
            assert 'set_matplotlib_formats("svg")' in code, name


@pytest.fixture(scope="module")
def figures(pages: dict[str, BeautifulSoup]) -> list[tuple[str, Tag]]:
    """Every picture in an article, with the page it is on."""
    return [
        (path, picture)
        for path, page in sorted(pages.items())
        if path.startswith("chapters/") or path == "README.html"
        for picture in page.select("article img")
    ]


def complaint(alt: str, source: str, caption: str) -> str:
    """What is wrong with a text alternative, or nothing."""
    words = re.findall(r"\w+", alt.lower())
    if not words:
        return "missing"
    if re.search(r"\.(png|svg|jpe?g|gif)\b|_images/", alt) or Path(source).stem == alt:
        return "a file's name"
    if len(words) < 12:
        return "too short to say what it shows"
    if words == re.findall(r"\w+", caption.lower()):
        return "the caption again"
    if words[0] in {"image", "picture", "photo", "graphic"}:
        return "begins with what a screen reader says anyway"
    return ""


def test_text_alternatives_say_what_is_shown(figures: list[tuple[str, Tag]]) -> None:
    assert len(figures) >= 40
    for page, picture in figures:
        figure = picture.find_parent("figure")
        caption = (
            figure.figcaption.get_text(" ") if figure and figure.figcaption else ""
        )
        wrong = complaint(
            picture.get("alt", ""), picture["src"], caption.rstrip("# \n")
        )
        assert not wrong, f"{page}: {picture.get('alt')!r} is {wrong}"


@pytest.mark.parametrize(
    "alt",
    [
        "",
        "  ",
        "_images/a.svg",
        "gates.svg of a cell that forgets and writes and reads in one go",
        "A curve.",
        "Median of 8 networks and the band spans all of them in light blue",
        "Image of a curve that falls from one to zero over ten steps, then rests",
    ],
)
def test_the_lint_finds_bad_alternatives(alt: str) -> None:
    caption = "Median of 8 networks, and the band spans all of them, in light blue."
    assert complaint(alt, "../_images/abc.svg", caption)


def test_figures_are_lines_of_known_size(
    figures: list[tuple[str, Tag]], site: Path
) -> None:
    for page, picture in figures:
        assert picture["src"].endswith(".svg"), page
        assert int(picture["width"]) > 100 < int(picture["height"]), page
        assert "<path" in (site / picture["src"].removeprefix("../")).read_text("utf-8")
