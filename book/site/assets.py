"""Cuts the site's style sheets, fonts and scripts down to what its pages use.

The theme brings 0.4 MB of rules and 0.3 MB of icons, and a reader's first visit waits for
them. One sheet, `site.css`, takes the place of all that the pages share.
"""

import logging
import posixpath
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from fontTools import subset
from sphinx.application import Sphinx

LINK = re.compile(r'\s*<link\b(?=[^>]*rel="stylesheet")[^>]*href="([^"?]*)[^"]*"[^>]*>')
NAMES = re.compile(r'(?:class|id)="([^"]*)"')
DRAWN = re.compile(r'content:\s*"((?:\\[0-9a-fA-F]+|[^"\\])+)"')
# The theme asks every code block for its width and answers with an attribute, so that
# the page is laid out once for each. book.js does it without.
SLOW = '"complete"===document.readyState?T():window.addEventListener("load",T)'


def rules(sheet: str) -> Iterator[tuple[str, str]]:
    """The rules of a style sheet, each as what stands before its braces and in them."""
    start = depth = 0
    prelude = ""
    for mark in re.finditer(r"[{};]", sheet):
        if mark[0] == "{":
            if not depth:
                prelude, start = sheet[start : mark.start()].strip(), mark.end()
            depth += 1
        elif mark[0] == "}":
            depth -= 1
            if not depth:
                yield prelude, sheet[start : mark.start()].strip()
                start = mark.end()
        elif not depth:
            start = mark.end()


def matches(selector: str, names: set[str]) -> bool:
    """Whether a selector asks for no class or id but these; alternatives do not count."""
    plain = re.sub(r"\[.*?\]|:[\w-]+\(.*?\)", "", selector)
    asked = re.findall(r"[.#](-?[a-zA-Z_][\w-]*)", plain)
    return "\\" in plain or names.issuperset(asked)


def lean(sheet: str, names: set[str]) -> str:
    """The rules of a style sheet whose classes and ids are among the names."""
    kept = []
    for prelude, body in rules(sheet):
        if prelude.startswith(("@media", "@supports")):
            body = lean(body, names)
        elif not prelude.startswith("@"):
            selectors = re.split(r",(?![^(]*\))", prelude)
            prelude = ",".join(s for s in selectors if matches(s, names))
        if prelude and body:
            kept.append(f"{prelude}{{{body}}}")
    return "\n".join(kept)


def read_sheet(path: Path, static: Path) -> str:
    """A style sheet without comments, with what it imports, and addresses from `static`."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text("utf-8"), flags=re.DOTALL)
    text = text.replace('@charset "UTF-8";', "")
    folder = path.parent.relative_to(static).as_posix()

    def move(match: re.Match[str]) -> str:
        return f'url("{posixpath.normpath(posixpath.join(folder, match[1]))}")'

    text = re.sub(r"url\([\"']?(?!data:|#)([^\"')]+)[\"']?\)", move, text)
    return re.sub(
        r'@import (?:url\()?"([^"]+)"\)?;',
        lambda match: read_sheet((path.parent / match[1]).resolve(), static),
        text,
    )


def names_in(pages: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """Every class and id that a page has or a script may give it."""
    found = {
        name for page in pages for text in NAMES.findall(page) for name in text.split()
    }
    return found.union(*(re.findall(r"[\w-]+", script) for script in scripts))


def drawn(sheet: str) -> set[int]:
    """The characters that a style sheet draws."""
    found: set[int] = set()
    for text in DRAWN.findall(sheet):
        found |= {int(code, 16) for code in re.findall(r"\\([0-9a-fA-F]+)", text)}
        found |= set(map(ord, re.sub(r"\\[0-9a-fA-F]+", "", text)))
    return found


def cut_font(source: Path, target: Path, characters: set[int]) -> None:
    """Write the glyphs of some characters as a small font."""
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    options = subset.Options(
        flavor="woff", ignore_missing_unicodes=True, layout_features=[], hinting=False
    )
    font = subset.load_font(str(source), options)
    cutter = subset.Subsetter(options)
    known = font.getBestCmap().keys()
    # A browser refuses a font without any character, which MathJax's empty one would be.
    cutter.populate(unicodes=characters & known or known)
    cutter.subset(font)
    target.parent.mkdir(exist_ok=True)
    subset.save_font(font, str(target), options)


def cut(app: Sphinx, error: Exception | None) -> None:
    """Write `site.css` with its fonts, and have the pages use it."""
    if error:
        return
    out = Path(app.outdir).resolve()
    static = out / "_static"
    theme = static / "scripts" / "pydata-sphinx-theme.js"
    theme.write_text(theme.read_text("utf-8").replace(SLOW, "0"), "utf-8")
    paths = [path for path in out.rglob("*.html") if static not in path.parents]
    pages = {path: path.read_text("utf-8") for path in paths}
    scripts = [
        p.read_text("utf-8") for p in static.rglob("*.js") if "vendor" not in p.parts
    ]
    # This page is written anew at each build, and has what all pages share.
    shared = LINK.findall(pages[out / "genindex.html"])
    sheet = "\n".join(read_sheet(out / name, static) for name in shared)
    sheet = lean(sheet, names_in(pages.values(), scripts))
    # Fonts of the older of two formats: the newer takes a package to read it.
    sheet = re.sub(r'url\("[^"]+\.woff2"\) format\("woff2"\),', "", sheet)
    for font in set(re.findall(r'url\("([^"]+\.(?:ttf|woff))"\)', sheet)):
        target = f"fonts/{Path(font).stem}.woff"
        cut_font(static / font, static / target, drawn(sheet))
        sheet = sheet.replace(f'"{font}"', f'"{target}"')
    sheet = sheet.replace('format("truetype")', 'format("woff")')
    (static / "site.css").write_text(sheet + "\n", "utf-8")
    version = f"{zlib.crc32(sheet.encode()):08x}"
    for path, text in pages.items():
        path.write_text(relink(text, path.relative_to(out), shared, version), "utf-8")


def relink(text: str, page: Path, shared: list[str], version: str) -> str:
    """A page with one link in place of those to the sheets that all pages share."""
    folder = page.parent.as_posix()
    root = "../" * len(page.parent.parts)
    links = [
        f'\n    <link rel="stylesheet" href="{root}_static/site.css?v={version}" />'
    ]

    def swap(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(folder, match[1]))
        if name not in (*shared, "_static/site.css"):
            return match[0]
        return links.pop() if links else ""

    return LINK.sub(swap, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension: after the others wrote their sheets."""
    app.connect("build-finished", cut, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
