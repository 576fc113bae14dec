"""What a page has beside its text: a description, a card, sizes of its pictures.

With it come the files that a host wants: `index.html`, `404.html` and `sitemap.xml`.
"""

import re
import textwrap
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import matplotlib as mpl
from docutils import nodes
from PIL import Image, ImageDraw, ImageFont
from sphinx.application import Sphinx
from sphinx.config import Config

from book import settings
from book.site.palette import PALETTE

# Title and description of the pages without a text of their own.
GENERATED = {
    "genindex": ("Index", "Every name of the book's library, by its first letter."),
    "py-modindex": ("Python Module Index", "The modules that the chapters export."),
    "search": ("Search", "Search all chapters, and the reference of their library."),
    "404": ("No such page", "The address leads to no page of the book."),
}
CARD = 1200, 630
PICTURE = re.compile(r'<img [^>]*?src="([^"]*/)?_images/([^"]+)"')
SVG_SIZE = re.compile(
    r'<svg\b[^>]*?(?:width="([\d.]+)pt" height="([\d.]+)pt"|viewBox="0 0 ([\d.]+) ([\d.]+)")'
)


def configure(app: Sphinx, config: Config) -> None:
    """Every page knows its address on the site, and the way back to the first."""
    known = settings()
    config.html_baseurl = known["pages_url"]
    config.html_theme_options["logo"] = {"text": known["title"]}
    config.html_theme_options["extra_footer"] = (
        f'<a href="{known["pages_url"]}{known["repo"]}.pdf">The whole book as a PDF</a>'
    )


def describe(doctree: nodes.document) -> str:
    """A page's first paragraph, which in a chapter is its question."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join("".join(paragraph.findall(nodes.Text)).split())
        if text:
            return textwrap.shorten(text, 300, placeholder=" …")
    raise ValueError(f"{doctree['source']} has no paragraph to describe it")


def complete(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Fill in the head of a page, and what its body lacks to keep its shape."""
    base, known = settings()["pages_url"], settings()
    first = page == context["root_doc"]
    if first:
        context["docstitle"] = ""
        context["pageurl"] = base
    elif page == "404":
        context["pageurl"] = None
    if doctree:
        title, about = app.env.titles[page].astext(), describe(doctree)
    else:
        title, about = GENERATED[page]
    name = f"_static/cards/{page}.png"
    draw_card(Path(app.outdir) / name, title, "" if first else known["title"], about)
    tags = {
        "og:type": "website" if first else "article",
        "og:site_name": known["title"],
        "og:title": title,
        "og:description": about,
        "og:url": context["pageurl"],
        "og:image": base + name,
        "og:image:width": CARD[0],
        "og:image:height": CARD[1],
        "og:image:alt": f"{title}. {about}",
    }
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n    <meta {kind}="{key}" content="{escape(str(value))}" />'
        for kind, key, value in [
            ("name", "description", about),
            ("name", "twitter:card", "summary_large_image"),
            *(("property", *tag) for tag in tags.items() if tag[1]),
        ]
    )
    if "body" in context:
        body = size_pictures(app, context["body"])
        # The list of references has links among its items, and names roles of old.
        context["body"] = re.sub(r' role="(list|doc-biblioentry)"', "", body)
    # Scripts wait for the text; those of the search page are the page. The theme's line
    # about the page's name would not wait, and nothing asks for it.
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "pagename" not in (script.attributes.get("body") or "")
    ]
    for script in context["script_files"]:
        if script.filename:
            script.attributes["defer"] = None if page == "search" else "defer"


def size_pictures(app: Sphinx, body: str) -> str:
    """Tell the browser how large each picture is, so that nothing moves when it comes."""
    sources = {name: Path(source) for source, name in app.builder.images.items()}
    seen = 0

    def size(match: re.Match[str]) -> str:
        nonlocal seen
        seen += 1
        width, height = picture_size(Path(app.srcdir) / sources[match[2]])
        lazy = ' loading="lazy"' if seen > 1 else ""
        return f'<img width="{width}" height="{height}"{lazy} {match[0][5:]}'

    return PICTURE.sub(size, body)


@cache
def picture_size(path: Path) -> tuple[int, int]:
    """Width and height in CSS pixels."""
    if path.suffix != ".svg":
        with Image.open(path) as picture:
            return picture.size
    match = SVG_SIZE.search(path.read_text("utf-8"))
    if match is None:
        raise ValueError(f"{path.name} has neither a size in pt nor a viewBox from 0 0")
    width, height, *box = match.groups()
    if width:
        return round(float(width) * 4 / 3), round(float(height) * 4 / 3)
    return round(float(box[0])), round(float(box[1]))


def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that the figures have too."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", name), size)


def draw_card(path: Path, title: str, book: str, about: str) -> None:
    """Draw the picture that a link to a page shows elsewhere."""
    card = Image.new("RGB", CARD, "white")
    pen = ImageDraw.Draw(card)
    pen.text((80, 60), book, "#4d5666", font(30))
    y = 120
    for line in textwrap.wrap(title, 24)[:2]:
        pen.text((80, y), line, "#1a1a1a", font(68, bold=True))
        y += 84
    for line in textwrap.wrap(about, 54, max_lines=4, placeholder=" …"):
        y += 46
        pen.text((80, y - 22), line, "#333333", font(32))
    # The memory of a cell, straight through, and the four gates.
    pen.line([(0, 560), (CARD[0], 560)], PALETTE[0], 8)
    for i, colour in enumerate(PALETTE[1:5]):
        x = 720 + 100 * i
        pen.rounded_rectangle((x, 528, x + 64, 592), 12, colour, "white", 6)
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path, optimize=True)


def finish(app: Sphinx, error: Exception | None) -> None:
    """Write the front page, the page for wrong addresses, and the list of pages."""
    if error:
        return
    out, base = Path(app.outdir), settings()["pages_url"]
    root = app.config.root_doc
    (out / "index.html").write_bytes((out / f"{root}.html").read_bytes())
    # A host shows this page at any depth, so its links start at the host's root.
    lost = out / "404.html"
    local = re.compile(r'\b(href|src|data-content_root)="(?![a-z]+:|[#/])(?:\./)?')
    text = local.sub(rf'\1="{urlsplit(base).path}', lost.read_text("utf-8"))
    lost.write_text(text, "utf-8")
    pages = [page for page in app.env.toctree_includes.get(root, [])]
    addresses = [base, *(f"{base}{page}.html" for page in pages)]
    listed = "".join(f"  <url><loc>{escape(url)}</loc></url>\n" for url in addresses)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{listed}</urlset>\n",
        "utf-8",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension."""
    app.connect("config-inited", configure)
    # After the themes, which add scripts.
    app.connect("html-page-context", complete, priority=900)
    # After book.site.assets, which changes the pages.
    app.connect("build-finished", finish, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
