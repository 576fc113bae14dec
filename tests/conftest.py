"""What several test files share: the chapters, the built site, what git tracks."""

import gc
import os
import subprocess
from pathlib import Path
from typing import NoReturn

import hypothesis
import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode

from book import ROOT

SITE = ROOT / "_build" / "html"
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("book", deadline=None)
hypothesis.settings.load_profile("book")


# Signals, pipes and a shell; and nbdev, which elsewhere writes other line ends.
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def skip_or_fail(reason: str) -> NoReturn:
    """Skip on a reader's machine; fail where CI says that everything must run."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the built site: `-m "not site"` runs where there is none."""
    for item in items:
        if "site" in getattr(item, "fixturenames", ()):
            item.add_marker("site")


@pytest.fixture(scope="session")
def tracked() -> list[str]:
    """The paths that git tracks, from the repository's root."""
    run = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for path in run.stdout.split("\0") if path and (ROOT / path).exists()]


@pytest.fixture(scope="session")
def notebooks() -> dict[str, NotebookNode]:
    """Every chapter, by the stem of its file."""
    return {path.stem: nbformat.read(path, as_version=4) for path in CHAPTERS}


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        skip_or_fail("the site is not built; run make book")
    return SITE


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """Every page that the book lists, by its path."""
    paths = [p for p in site.rglob("*.html") if "_static" not in p.parts]
    gc.disable()  # it would look at every tag of the trees again and again
    parsed = {
        path.relative_to(site).as_posix(): BeautifulSoup(
            path.read_text("utf-8"), "html.parser"
        )
        for path in paths
    }
    gc.enable()
    return parsed
