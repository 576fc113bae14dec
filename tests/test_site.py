"""The pages as they were built, without a browser."""

import inspect
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from book import settings
from book.reader import code_cells, split_directives
from book.setup_cell import CELL_ID


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """Every page that the book lists, by its path."""
    paths = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(
            path.read_text("utf-8"), "html.parser"
        )
        for path in paths
    }


def text_of(page: BeautifulSoup) -> str:
    """The words of the article itself."""
    article = page.select_one("article")
    return article.get_text() if article else ""


def test_every_chapter_has_a_page(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    assert {f"chapters/{name}.html" for name in notebooks} <= pages.keys()


def test_one_title_a_page(pages: dict[str, BeautifulSoup]) -> None:
    for path, page in pages.items():
        if "/" in path or path == "README.html":
            assert len(page.select("article h1")) == 1, path


def test_nothing_is_left_unresolved(pages: dict[str, BeautifulSoup]) -> None:
    raw = re.compile(r"\{(eq|cite|ref|doc|numref)\}|\$\$|\[\?\]")
    for path, page in pages.items():
        for text in page.find_all(string=raw):
            assert text.find_parent(["pre", "code", "script"]), f"{path}: {text}"


def test_nothing_is_loaded_from_another_host(
    pages: dict[str, BeautifulSoup], site: Path
) -> None:
    for path, page in pages.items():
        for tag in page.select(
            "script[src], link[href], img[src], iframe, video, source"
        ):
            if tag.name == "link" and set(tag.get("rel", [])) & {"canonical", "author"}:
                continue
            address = tag.get("src") or tag.get("href") or ""
            assert not urlsplit(address).netloc, f"{path}: {address}"
    for sheet in (site / "_static").rglob("*.css"):
        css = re.sub(r"/\*.*?\*/", "", sheet.read_text("utf-8"), flags=re.DOTALL)
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", css), sheet.name


def test_links_inside_the_site_lead_somewhere(
    pages: dict[str, BeautifulSoup], site: Path
) -> None:
    for path, page in pages.items():
        for link in page.select("article a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = (
                (site / path).parent / unquote(parts.path)
                if parts.path
                else site / path
            )
            assert target.resolve().exists(), f"{path}: {link['href']}"
            name = target.resolve().relative_to(site.resolve()).as_posix()
            if parts.fragment and name in pages:
                found = pages[name].find(id=unquote(parts.fragment))
                assert found is not None, f"{path}: {link['href']}"


def test_repository_links_point_to_tracked_files(
    pages: dict[str, BeautifulSoup], tracked: list[str]
) -> None:
    known = settings()
    home = known["git_url"]
    colab = home.replace("https://", "https://colab.research.google.com/").replace(
        "/github.com/", "/github/"
    )
    branch, tag, counted = re.escape(known["branch"]), re.escape(known["version"]), 0
    file = re.compile(
        rf"(?:{re.escape(home)}/(?:edit|blob|tree|raw)/{branch}"
        rf"|{re.escape(colab)}/blob/v{tag})/([^?#]+)"
    )
    page_link = re.compile(rf"{re.escape(home)}(/?|/issues.*)")
    for path, page in pages.items():
        for link in page.select("a[href]"):
            address = link["href"]
            if f"/{known['user']}" not in address and "colab" not in address:
                continue
            match = file.fullmatch(address)
            counted += bool(match)
            assert match or page_link.fullmatch(address), f"{path}: {address}"
            if match:
                assert unquote(match[1]) in tracked, f"{path}: {address}"
        buttons = page.select('a[href*="colab.research"]')
        if path.startswith("chapters/"):
            assert buttons, f"{path} has no Colab button"
        else:
            assert not buttons, f"{path} has a Colab button"
    assert counted


def test_the_download_button_gives_a_clean_notebook(
    pages: dict[str, BeautifulSoup], site: Path, notebooks: dict[str, NotebookNode]
) -> None:
    for name, notebook in notebooks.items():
        path = f"chapters/{name}.html"
        links = pages[path].select('.dropdown-download-buttons a[href*="_sources/"]')
        targets = {(site / path).parent / unquote(link["href"]) for link in links}
        assert len(targets) == 1, f"{name}: {targets}"
        given = nbformat.read(targets.pop(), as_version=4)
        nbformat.validate(given)
        assert not re.search(r"^\s*#\s*\|", all_code(given), re.MULTILINE), name
        clean = "\n".join(split_directives(c.source)[1] for c in code_cells(notebook))
        assert all_code(given).split() == clean.split(), name
        assert given.cells[1].id == CELL_ID
        for cell in code_cells(given):
            assert not cell.outputs and cell.execution_count is None, name
        prose = [c.source for c in notebook.cells if c.cell_type == "markdown"]
        assert [c.source for c in given.cells if c.cell_type == "markdown"] == prose


def all_code(notebook: NotebookNode) -> str:
    return "\n".join(cell.source for cell in code_cells(notebook))


def test_exported_cells_are_marked(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    for name, notebook in notebooks.items():
        page, default, expected = pages[f"chapters/{name}.html"], "", []
        for cell in code_cells(notebook):
            directives, code = split_directives(cell.source)
            default = directives.get("default_exp", default)
            for kind in directives.keys() & {"export", "exports", "exporti"}:
                if code.strip() and "hide" not in directives:
                    expected.append(
                        f"exported to hlstm/{directives[kind] or default}.py"
                    )
        marks = page.select("div.cell > p.exported")
        assert [mark.get_text() for mark in marks] == expected, name
        for mark in marks:
            module = (
                mark.get_text().removeprefix("exported to hlstm/").removesuffix(".py")
            )
            assert mark.a["href"].endswith(f"api.html#module-hlstm.{module}")


def test_hidden_cells_are_hidden(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    for name, notebook in notebooks.items():
        page = pages[f"chapters/{name}.html"]
        shown = {code.get_text().strip() for code in page.select("div.cell_input pre")}
        for cell in code_cells(notebook):
            directives, code = split_directives(cell.source)
            if code.strip():
                tags = cell.metadata.get("tags", [])
                hidden = "hide" in directives or "remove-cell" in tags
                hidden |= cell.id == CELL_ID
                removed = "remove-input" in tags
                assert (code.strip() in shown) != (hidden or removed), (
                    f"{name} {cell.id}"
                )


def test_pictures_have_a_text_alternative(pages: dict[str, BeautifulSoup]) -> None:
    for path, page in pages.items():
        for picture in page.select("article img"):
            alt = picture.get("alt", "").strip()
            assert alt and not alt.startswith("_images/"), f"{path}: {picture['src']}"
            assert "../_images" not in alt, f"{path}: {picture['src']}"


def test_equations_have_their_anchors(pages: dict[str, BeautifulSoup]) -> None:
    for path, page in pages.items():
        for block in page.select("div.math"):
            for number in re.findall(r"\\tag\{(.+?)\}", block.get_text()):
                label = f"equation-{number.replace('.', '-').lower()}"
                assert page.find(id=label) is not None, f"{path}: ({number})"


def test_the_table_of_times_lists_every_chapter(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    table = text_of(pages["appendices/times.html"])
    assert all(f"chapters/{name}" in table for name in notebooks)
    assert table.count("done") == len(notebooks) and "failed" not in table


def test_the_api_page_documents_every_public_name(
    pages: dict[str, BeautifulSoup],
) -> None:
    import hlstm

    page = pages["appendices/api.html"]
    documented = {tag["id"].rpartition(".")[2] for tag in page.select("dt[id]")}
    for name in hlstm.__all__:
        value = getattr(hlstm, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert name in documented
