"""The book's Sphinx extension: links, equations, exported cells, the API page."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

from docutils import nodes
from myst_nb.core.execute import cache as cache_client
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from book import ROOT, settings
from book.notebooks.execute import execute
from book.notebooks.exports import PACKAGE, exported_modules
from book.notebooks.reader import download, read
from book.notebooks.renumber import entries

LOGGER = logging.getLogger(__name__)
API_PAGE = "appendices/api"
TIMES_PAGE = "appendices/times"
TIME = "Running time"
# Classes whose members are somebody else's to document.
FOREIGN = (
    "Module, Function, FunctionCtx, _HookMixin, _FunctionBase, _SingleLevelFunction, "
    "tuple, BaseException"
)
API_MARK = re.compile(r"<!-- one section for each module.*?-->")


def configure(app: Sphinx, config: Config) -> None:
    """Take the book's names and the links to its repository from settings.ini."""
    known = settings()
    config.project = config.html_title = known["title"]
    config.author = known["author"]
    config.copyright = known["copyright"]
    config.version = config.release = known["version"]
    config.html_theme_options.update(
        repository_url=known["git_url"],
        repository_branch=known["branch"],
        path_to_docs="",
        use_repository_button=True,
        use_edit_page_button=True,
        use_issues_button=True,
        launch_buttons={"colab_url": "https://colab.research.google.com"},
        home_page_in_toc=True,
        pygments_light_style="a11y-high-contrast-light",
        pygments_dark_style="a11y-high-contrast-dark",
    )


class ExportedCells(SphinxTransform):
    """Above the code of an exported cell, a line says which module it goes to."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Mark every cell that has a tag `export-<module>`."""
        for cell in list(self.document.findall(nodes.container)):
            if cell.get("nb_element") != "cell_code":
                continue
            for tag in cell["cell_metadata"].get("tags", []):
                if tag.startswith("export-"):
                    target = tag.removeprefix("export-")
                    if target.endswith(".hpp"):
                        for block in cell.findall(nodes.literal_block):
                            block["language"] = "cpp"
                    # MyST-NB folds code that comes first; MarksFirst moves this up.
                    cell.insert(1, self.mark(target))

    def mark(self, module: str) -> nodes.paragraph:
        """The line itself, with a link to the module's section of the API page."""
        if module.endswith(".hpp"):
            path = nodes.literal("", f"{PACKAGE}/{module}")
            return nodes.paragraph("", "exported to ", path, classes=["exported"])
        link = link_to("py", "mod", f"{PACKAGE}.{module}", self.env.docname)
        link += nodes.literal("", f"{PACKAGE}/{module}.py")
        return nodes.paragraph("", "exported to ", link, classes=["exported"])


class MarksFirst(SphinxPostTransform):
    """The line of an exported cell stands above its code, once that is folded."""

    default_priority = 200

    def run(self, **kwargs: Any) -> None:
        """Move each line to the top of its cell."""
        for mark in list(self.document.findall(nodes.paragraph)):
            if "exported" in mark["classes"]:
                cell = mark.parent
                cell.remove(mark)
                cell.insert(0, mark)


class Equations(SphinxTransform):
    r"""Equations that carry a ``\tag`` can be linked to, from any chapter.

    Colab shows the tag as it stands, and so does the page. In running text, "equation
    (4.1)" or "equations (4.1) and (4.2)" become links.
    """

    default_priority = 400
    TAG = re.compile(r"\\tag\{([A-Z\d]+\.\d+[a-z]?)\}")
    NUMBER = r"\(([A-Z\d]+\.\d+[a-z]?)\)"
    JOIN = r"(?:,\s+and\s+|,\s+|\s+and\s+|\s+or\s+|\s+to\s+|\s*[-–]\s*)"
    MENTION = re.compile(rf"[Ee]quations?\s+{NUMBER}(?:{JOIN}{NUMBER})*")
    LITERAL = (
        nodes.FixedTextElement,
        nodes.literal,
        nodes.math,
        nodes.raw,
        nodes.reference,
        addnodes.pending_xref,
    )

    def apply(self, **kwargs: Any) -> None:
        """Make the targets, then the links."""
        for block in list(self.document.findall(nodes.math_block)):
            self.number(block)
        for parent in list(self.document.findall(nodes.TextElement)):
            if not isinstance(parent, self.LITERAL):
                self.link(parent)

    def number(self, block: nodes.math_block) -> None:
        """Give a tagged equation an anchor and a name that the whole book knows."""
        tags = self.TAG.findall(block.astext())
        if not tags:
            return
        names = self.env.domaindata["std"]["anonlabels"]
        for tag in tags:
            label = equation_label(tag)
            if label in names:
                LOGGER.warning("equation (%s) is numbered twice", tag, location=block)
            names[label] = (self.env.docname, label)
            block["ids"].append(label)

    def link(self, parent: nodes.TextElement) -> None:
        """Turn the mentions of equations in one paragraph into links."""
        children: list[nodes.Node] = []
        for child in parent.children:
            # A line break in the source splits a text in two.
            if isinstance(child, nodes.Text) and children:
                if isinstance(children[-1], nodes.Text):
                    children[-1] = nodes.Text(children[-1] + child)
                    continue
            children.append(child)
        linked = [
            part
            for child in children
            for part in (
                self.split(child) if isinstance(child, nodes.Text) else [child]
            )
        ]
        if len(linked) > len(children):
            parent.children = []
            parent.extend(linked)

    def split(self, text: nodes.Text) -> Iterable[nodes.Node]:
        """A text cut at each number that stands in a mention."""
        end = 0
        for mention in self.MENTION.finditer(text):
            for number in re.finditer(self.NUMBER, mention[0]):
                start = mention.start() + number.start()
                yield nodes.Text(text[end:start])
                end = start + len(number[0])
                link = link_to(
                    "std", "ref", equation_label(number[1]), self.env.docname
                )
                link += nodes.inline("", number[0])
                yield link
        yield nodes.Text(text[end:])


def equation_label(number: str) -> str:
    return f"equation-{number.replace('.', '-').lower()}"


def link_to(domain: str, kind: str, target: str, page: str) -> nodes.Element:
    """A link that Sphinx resolves later, with a warning where it cannot."""
    return addnodes.pending_xref(
        "",
        refdomain=domain,
        reftype=kind,
        reftarget=target,
        refdoc=page,
        refexplicit=True,
        refwarn=True,
    )


def write_api(app: Sphinx, page: str, source: list[str]) -> None:
    """Give every exported module a section on the API page."""
    if page == API_PAGE:
        app.env.metadata["modules"] = {"names": exported_modules(ROOT)}
        sections = [
            f"## {PACKAGE}.{name}\n\n"
            f"```{{eval-rst}}\n.. automodule:: {PACKAGE}.{name}\n"
            f"   :members:\n   :inherited-members: {FOREIGN}\n```"
            for name in app.env.metadata["modules"]["names"]
        ]
        source[0] = API_MARK.sub(lambda _: "\n\n".join(sections), source[0])


def outdated(
    app: Sphinx,
    env: BuildEnvironment,
    added: set[str],
    changed: set[str],
    removed: set[str],
) -> set[str]:
    """Each chapter that uses a module which has changed; the API page, if one is new.

    That a module itself has changed, Sphinx sees. The page of times is always among them:
    without a page, Sphinx would not copy styles and scripts.
    """
    found = {TIMES_PAGE} & env.found_docs
    if env.metadata["modules"].get("names") != exported_modules(ROOT):
        found |= {API_PAGE} & env.found_docs
    for page in env.found_docs - added - changed:
        path = ROOT / f"{page}.ipynb"
        if path.exists():
            kernel = read(path.read_text("utf-8")).metadata["kernelspec"]
            if env.metadata[page].get("kernelspec") != kernel:
                found.add(page)
    return found


def word_status(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put words for the pictographs in the table of execution times."""
    words = {"✅": "done", "❌": "failed"}
    for entry in doctree.findall(nodes.entry):
        for text in list(entry.findall(nodes.Text)):
            if text in words:
                text.parent.replace(text, nodes.Text(words[text]))


def execute_chapters(app: Sphinx) -> None:
    """Execute the chapters that have changed, before Sphinx asks for their results."""
    at_once = int(os.environ.get("CHAPTERS_AT_ONCE", "2"))
    paths = [ROOT / "chapters" / f"{stem}.ipynb" for stem, _ in entries(ROOT)]
    failed = [chapter.path.name for chapter in execute(paths, at_once) if chapter.error]
    if failed:
        # Its traceback would be longer than those of the chapters.
        raise SystemExit(f"chapters failed: {', '.join(failed)}")
    cache_client.single_nb_execution = refuse


def refuse(*arguments: Any, **options: Any) -> None:
    """Stand in for myst-nb's own execution, which knows nothing of readers."""
    raise SphinxError("a chapter has changed since it was executed; build once more")


def state_time(app: Sphinx, doctree: nodes.document) -> None:
    """Say at the head of a chapter how long it ran, in place of what its source says."""
    run = NbMetadataCollector.get_exec_data(app.env, app.env.docname)
    if not run or run["runtime"] is None:
        return
    card = next(iter(doctree.findall(nodes.bullet_list)), None)
    if card is None:
        LOGGER.warning("no list at the head of the chapter", location=doctree)
        return
    for item in list(card):
        if item.astext().startswith(TIME):
            card.remove(item)
    line = nodes.paragraph("", "", nodes.strong("", TIME))
    line += nodes.Text(f": {duration(run['runtime'])}, measured as this page was built")
    card += nodes.list_item("", line)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} minutes"


def open_the_tag(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Let Colab open the chapter of this version, which is what it installs."""
    known = settings()
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button["text"] == "Colab":
                branch, tag = f"/blob/{known['branch']}/", f"/blob/v{known['version']}/"
                button["url"] = button["url"].replace(branch, tag)


def write_downloads(app: Sphinx, exception: Exception | None) -> None:
    """Put clean notebooks where the download buttons lead."""
    if exception is None and app.builder.format == "html":
        for page in app.env.found_docs:
            path = ROOT / f"{page}.ipynb"
            if path.exists():
                target = Path(app.outdir, "_sources", f"{page}.ipynb")
                target.write_text(download(path.read_text("utf-8")), "utf-8")


def setup(app: Sphinx) -> dict[str, int]:
    """Connect the extension; pages are read anew when it changes."""
    app.connect("config-inited", configure)
    app.connect("builder-inited", execute_chapters)
    app.connect("source-read", write_api)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", state_time)
    app.connect("doctree-resolved", word_status)
    app.connect("html-page-context", open_the_tag, priority=900)
    app.connect("build-finished", write_downloads)
    app.add_transform(ExportedCells)
    app.add_post_transform(MarksFirst)
    app.add_transform(Equations)
    return {
        "env_version": crc32(Path(__file__).read_bytes()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
