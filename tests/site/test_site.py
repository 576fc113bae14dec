"""The pages as they were built, without a browser."""

import inspect
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from PIL import Image

from book import ROOT, settings
from book.notebooks.contract import read_contract
from book.notebooks.reader import HEADER, code_cells, split_directives
from book.notebooks.setup_cell import CELL_ID
from book.site.assets import lean
from book.site.exercises import listed
from book.site.extension import TIME, duration
from book.site.selftests import FOLDER, load
from hlstm.exercises import solution_source


def text_of(page: BeautifulSoup) -> str:
    """The words of the article itself."""
    article = page.select_one("article")
    return article.get_text() if article else ""


def test_every_chapter_has_a_page(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    assert {f"chapters/{name}.html" for name in notebooks} <= pages.keys()


def test_every_page_says_what_it_is(
    pages: dict[str, BeautifulSoup], site: Path
) -> None:
    """One h1; a title, a description and an address of its own; a card with a picture."""
    base, cards = settings()["pages_url"], set()
    seen: dict[str, set[str]] = {
        "title": set(),
        "description": set(),
        "canonical": set(),
    }
    for path, page in pages.items():
        if path == "index.html":
            continue
        assert len(page.select("h1:not(.onlyprint *)")) == 1, path
        assert page.select_one('#pst-skip-link a[href="#main-content"]'), path
        assert page.select_one("main#main-content") and page.html["lang"] == "en", path
        head = {
            tag.get("name") or tag.get("property"): tag.get("content")
            for tag in page.select("head meta")
        }
        canonical = page.select_one('link[rel="canonical"]')
        own = {
            "title": page.title.get_text(),
            "description": head["description"],
            "canonical": canonical["href"] if canonical else "",
        }
        for kind, value in own.items():
            assert value not in seen[kind], f"{path}: {kind} {value}"
            seen[kind].add(value)
        assert 20 <= len(own["description"]) <= 300, path
        if path != "404.html":
            expected = base if path == "README.html" else base + path
            assert own["canonical"] == head["og:url"] == expected, path
        assert head["og:title"] in own["title"], path
        assert head["og:description"] == own["description"], path
        picture = site / head["og:image"].removeprefix(base)
        with Image.open(picture) as card:
            assert card.format == "PNG" and card.size == (1200, 630), path
        cards.add(picture.read_bytes())
        icon = page.select_one('link[rel="icon"]')["href"].removeprefix(
            urlsplit(base).path
        )
        assert ((site / path).parent / icon).exists() or (site / icon).exists(), path
    assert len(cards) == len(pages) - 1


def test_a_chapter_is_described_by_its_question(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    for name, notebook in notebooks.items():
        prose = next(c.source for c in notebook.cells if "\n> " in c.source)
        question = re.search(r"^> (.*)$", prose, re.MULTILINE)
        head = pages[f"chapters/{name}.html"].select_one('meta[name="description"]')
        assert question and head["content"] == question[1].replace("'", "’"), name
    head = pages["index.html"].select_one('meta[name="description"]')
    assert head["content"].startswith("This is a course on one idea")


def test_the_course_is_read_in_order(pages: dict[str, BeautifulSoup]) -> None:
    """Previous and next lead through the pages as _toc.yml lists them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    order = [
        toc["root"],
        *(c["file"] for part in toc["parts"] for c in part["chapters"]),
    ]
    for i, name in enumerate(order):
        page = pages[f"{name}.html"]
        for kind, neighbour in (("prev", i - 1), ("next", i + 1)):
            link = page.select_one(f"a.{'left' if kind == 'prev' else 'right'}-{kind}")
            if not 0 <= neighbour < len(order):
                assert link is None, f"{name}: {kind}"
                continue
            target = (PurePosixPath(name).parent / link["href"]).as_posix()
            assert os.path.normpath(target) == f"{order[neighbour]}.html", name


def test_files_for_the_host(site: Path) -> None:
    """The front page is no detour, and the sitemap lists every page of the course."""
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    base = settings()["pages_url"]
    listed = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text("utf-8"))
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    files = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert listed == [base, *(f"{base}{file}.html" for file in files)]
    lost = BeautifulSoup((site / "404.html").read_text("utf-8"), "html.parser")
    for tag in lost.select("[href], script[src]"):
        link = tag.get("href") or tag.get("src")
        assert re.match(r"(/|#|[a-z]+:)", link), link


def test_formulas_need_no_script(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    """Each is set in the page, with MathML and TeX for those who do not see it."""
    set_in_pages = 0
    for path, page in pages.items():
        for formula in page.select(".math"):
            set_in_pages += 1
            math = formula.select("mjx-container > mjx-assistive-mml > math[alttext]")
            assert len(math) == 1 and math[0].get_text().strip(), path
            assert formula.select_one("mjx-math[aria-hidden=true]"), path
        assert not page.select("mjx-merror, mjx-utext"), path
        assert not [s for s in page.select("script") if "mathjax" in str(s).lower()], (
            path
        )
    assert set_in_pages > 1000


def test_the_first_paint_waits_for_one_sheet_alone(
    pages: dict[str, BeautifulSoup],
) -> None:
    for path, page in pages.items():
        sheets = [link["href"] for link in page.select('link[rel="stylesheet"]')]
        assert "site.css" in sheets[0] and len(sheets) <= 2, path
        scripts = page.select("script[src]")
        if path != "search.html":
            assert all(script.has_attr("defer") for script in scripts), path
        for picture in page.select("article img")[1:]:
            assert picture["loading"] == "lazy", path


@pytest.mark.parametrize(
    ("sheet", "kept"),
    [
        (".a{x:1}.b{x:2}", ".a{x:1}"),
        (".a,.b .c{x:1}", ".a{x:1}"),
        ("p .a>b{x:1}.a.b{x:2}", "p .a>b{x:1}"),
        ("@media print{.b{x:1}}", ""),
        ("@media print{.b{x:1}.a{x:2}}.a{x:3}", "@media print{.a{x:2}}\n.a{x:3}"),
        ('@charset "x";p:not(.b,.c){x:1}', "p:not(.b,.c){x:1}"),
        ('[href$=".b"]{x:1}', '[href$=".b"]{x:1}'),
        (".b\\/2{x:1}#a:is(.b){x:2}", ".b\\/2{x:1}\n#a:is(.b){x:2}"),
        ("@font-face{x:1}", "@font-face{x:1}"),
    ],
)
def test_lean_keeps_what_can_match(sheet: str, kept: str) -> None:
    assert lean(sheet, {"a"}) == kept


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
    ids = {
        path: {tag["id"] for tag in page.find_all(id=True)}
        for path, page in pages.items()
    }
    for path, page in pages.items():
        for link in page.select("article a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            if path == "404.html":  # its links start at the host's root
                below = parts.path.removeprefix(urlsplit(settings()["pages_url"]).path)
                assert (site / below).exists(), link["href"]
                continue
            target = (
                (site / path).parent / unquote(parts.path)
                if parts.path
                else site / path
            )
            assert target.resolve().exists(), f"{path}: {link['href']}"
            name = target.resolve().relative_to(site.resolve()).as_posix()
            if parts.fragment and name in pages:
                assert unquote(parts.fragment) in ids[name], f"{path}: {link['href']}"


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
            if address == f"{known['pages_url']}{known['repo']}.pdf":
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
            if header := HEADER.match(code):
                expected.append(f"exported to hlstm/csrc/{header['name']}")
            for kind in directives.keys() & {"export", "exports", "exporti"}:
                if code.strip() and "hide" not in directives:
                    expected.append(
                        f"exported to hlstm/{directives[kind] or default}.py"
                    )
        marks = page.select("div.cell > p.exported")
        assert [mark.get_text() for mark in marks] == expected, name
        for mark in marks:
            module = mark.get_text().removeprefix("exported to hlstm/")
            if module.endswith(".hpp"):
                assert not mark.a and mark.parent.select_one(".highlight-cpp")
                continue
            module = module.removesuffix(".py")
            assert mark.a["href"].endswith(f"api.html#module-hlstm.{module}")


def test_folded_cells_are_folded_and_their_line_stands_above(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    for name, notebook in notebooks.items():
        folded = [
            code.strip()
            for directives, code in (
                split_directives(c.source) for c in code_cells(notebook)
            )
            if directives.get("code-fold") == "true" and "hide" not in directives
        ]
        page = pages[f"chapters/{name}.html"]
        found = [pre.get_text().strip() for pre in page.select("details pre")]
        assert all(code in found for code in folded), name
        assert not page.select("details p.exported"), name


def test_solutions_are_folded_and_linked(pages: dict[str, BeautifulSoup]) -> None:
    """Each in a `<details>`, which a link opens; those in code show their function."""
    counted = checked = 0
    for exercise in listed(ROOT):
        page = pages[f"chapters/{exercise.stem}.html"]
        box = page.find(id=exercise.label)
        title = box.select_one("p.admonition-title").get_text()
        assert title == f"Exercise {exercise.number}. {exercise.title}"
        inside = page.find(id=f"{exercise.label}-solution")
        assert box.select_one(f'a[href="#{exercise.label}-solution"]'), exercise.label
        assert inside.select_one(f'a[href="#{exercise.label}"]'), exercise.label
        details = inside.parent
        assert details.name == "details" and not details.has_attr("open")
        summary = details.find(recursive=False)
        assert summary.get_text() == f"Solution to exercise {exercise.number}"
        if exercise.checked:
            checked += 1
            code = [pre.get_text() for pre in inside.select("pre")]
            assert solution_source(exercise.name) in code, exercise.label
        counted += 1
    assert counted >= 65 and checked >= 6
    assert not any(
        page.select(".fignumber, .caption-number") for page in pages.values()
    )


def test_the_page_of_exercises_lists_them_all(pages: dict[str, BeautifulSoup]) -> None:
    """Twice, by chapter and by time, with the number of all."""
    every = listed(ROOT)
    article = pages["appendices/exercises.html"].select_one("article")
    links = [link["href"] for link in article.select("li a[href]")]
    for exercise in every:
        target = f"../chapters/{exercise.stem}.html#{exercise.label}"
        assert links.count(target) == 2, target
    assert f"There are {len(every)} exercises." in article.get_text()
    side = pages["README.html"].select_one("nav.bd-links")
    assert side.select_one('a[href="appendices/exercises.html"]')


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


def test_equations_have_their_anchors(pages: dict[str, BeautifulSoup]) -> None:
    counted = 0
    for path, page in pages.items():
        for math in page.select("div.math math"):
            for number in re.findall(r"\\tag\{(.+?)\}", math["alttext"]):
                counted += 1
                label = f"equation-{number.replace('.', '-').lower()}"
                assert page.find(id=label) is not None, f"{path}: ({number})"
    assert counted > 100


def test_questions_need_no_script(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    """They stand before the exercises, and their folded answers speak of each choice."""
    counted = 0
    for name in notebooks:
        file = FOLDER / f"{name.partition('_')[2]}.yaml"
        page = pages[f"chapters/{name}.html"]
        if not file.exists():
            assert not page.select(".selftest"), name
            continue
        section = page.select_one("section#questions")
        assert section.find_next_sibling("section")["id"] == "exercises", name
        assert page.select_one('.bd-toc-nav a[href="#questions"]'), name
        boxes = section.select(":scope > .selftest")
        for box, question in zip(boxes, load(file), strict=True):
            counted += 1
            assert box.select_one("fieldset > legend").get_text().endswith("?"), name
            labels, told = box.select("label"), box.select("details > p")
            right = [i for i, c in enumerate(question["choices"]) if "right" in c]
            assert [i for i, p in enumerate(told) if p["class"] == ["right"]] == right
            for i, (label, said) in enumerate(zip(labels, told, strict=True)):
                verdict = "right" if i in right else "wrong"
                assert label.select_one("input[type=radio]")["name"] == box["id"]
                assert label.get_text().startswith(f"{'ABCD'[i]}. "), name
                assert said.get_text().startswith(f"{'ABCD'[i]} is {verdict}. "), name
            assert len(told) == len(question["choices"]), name
            assert box.select_one("[role=status]").get_text() == "", name
            assert not box.select_one("details").has_attr("open"), name
    assert counted >= 3


def test_the_contract_has_a_row_for_every_equation(
    pages: dict[str, BeautifulSoup],
) -> None:
    """Each leads to its equation, and to cells that are there."""
    rows = pages["appendices/contract.html"].select("article .contract")
    numbers = [row.select("p")[0].get_text() for row in rows]
    assert numbers == [f"({number})" for number in read_contract(ROOT).equations]
    for row in rows:
        assert row.select("math") and len(row.select("a")) > 1, row.get_text()
        for link in row.select("a"):
            path, _, anchor = link["href"].removeprefix("../").partition("#")
            assert not anchor or pages[path].find(id=anchor) is not None, link["href"]


def test_the_table_of_times_lists_every_chapter(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    table = text_of(pages["appendices/times.html"])
    assert all(f"chapters/{name}" in table for name in notebooks)
    assert table.count("done") == len(notebooks) and "failed" not in table


def test_a_chapter_states_the_time_that_it_took(
    pages: dict[str, BeautifulSoup], notebooks: dict[str, NotebookNode]
) -> None:
    """In the list at its head, and it is the one in the table of times."""
    for row in pages["appendices/times.html"].select("article table tbody tr"):
        name, _, _, seconds, _ = (cell.get_text().strip() for cell in row.select("td"))
        page = pages[f"{name}.html"]
        said = [
            item.get_text().strip()
            for item in page.select("article section ul")[0].select("li")
            if "Running time" in item.get_text()
        ]
        expected = (
            f"{TIME}: {duration(float(seconds))}, measured as this page was built"
        )
        assert said == [expected], name


def test_no_page_is_empty(pages: dict[str, BeautifulSoup]) -> None:
    """Each has something to say below its title."""
    for path, page in pages.items():
        if path not in ("search.html", "index.html"):
            for title in page.select("article h1"):
                title.extract()
            assert len(text_of(page).split()) > 20 or page.select("form"), path


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
