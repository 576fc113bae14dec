"""The workflows on GitHub: well formed, pinned, and with no more rights than they need."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from book import ROOT, settings
from tests.conftest import skip_or_fail

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def actionlint(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Run actionlint, without the other programs that it would look for."""
    program = shutil.which("actionlint", path=sysconfig.get_path("scripts"))
    if program is None:
        skip_or_fail("no actionlint for this platform")
    alone = ["-no-color", "-shellcheck=", "-pyflakes="]
    words = [str(program), *alone, *map(str, paths)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def read(name: str) -> dict[Any, Any]:
    """A workflow as YAML; its `on` is the key True."""
    path = ROOT / ".github" / "workflows" / name
    content = yaml.safe_load(path.read_text("utf-8"))
    assert isinstance(content, dict)
    return content


def test_actionlint_finds_nothing() -> None:
    run = actionlint(*WORKFLOWS)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("runs-on: ubuntu-latest", "runs-on: ubuntu-oldest", 'label "ubuntu-oldest"'),
        ("matrix.python", "matrix.pythn", 'property "pythn" is not defined'),
        ("contents: read", "content: read", 'permission scope "content"'),
        ("  workflow_call:", "  workflow_cal:", 'event "workflow_cal"'),
    ],
)
def test_actionlint_sees_a_mistake(
    tmp_path: Path, good: str, bad: str, complaint: str
) -> None:
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8")
    assert good in text
    broken = tmp_path / "test.yml"
    broken.write_text(text.replace(good, bad), "utf-8")
    run = actionlint(broken)
    assert run.returncode == 1 and complaint in run.stdout, run.stdout


def test_actions_are_pinned() -> None:
    used = [
        line.partition("uses:")[2].strip()
        for path in WORKFLOWS
        for line in path.read_text("utf-8").splitlines()
        if "uses:" in line
    ]
    assert used
    for action in used:
        assert action.startswith("./") or PINNED.fullmatch(action), action


def test_only_publishing_may_write() -> None:
    """Pages and PyPI get the one token each that they need, and run no code of ours."""
    rights = {
        (path.name, name): {
            scope
            for scope, access in job.get("permissions", {}).items()
            if access == "write"
        }
        for path in WORKFLOWS
        for name, job in read(path.name)["jobs"].items()
    }
    writing = {job: scopes for job, scopes in rights.items() if scopes}
    assert writing == {
        ("publish.yml", "pages"): {"pages", "id-token"},
        ("publish.yml", "pypi"): {"id-token"},
    }
    for file, name in writing:
        assert all("run" not in step for step in read(file)["jobs"][name]["steps"])
    assert read("test.yml")["permissions"] == {"contents": "read"}
    assert read("publish.yml")["permissions"] == {}


def test_what_is_tested_and_when() -> None:
    jobs, triggers = read("test.yml")["jobs"], read("test.yml")[True]
    versions = [job["strategy"]["matrix"]["python"] for job in jobs.values()]
    assert versions == [["3.11", "3.12", "3.13"]] * 2
    assert versions[0][0] == settings()["min_python"]
    assert jobs["all"]["runs-on"] == "ubuntu-latest"
    systems = jobs["package"]["strategy"]["matrix"]["os"]
    assert systems == ["macos-latest", "windows-latest"]
    assert triggers["push"] == {"branches": [settings()["branch"]]}
    assert read("publish.yml")[True] == {"push": {"tags": ["v*"]}}
    published = [
        step.get("run") for step in read("publish.yml")["jobs"]["build"]["steps"]
    ]
    assert {"make release-check", "make book", "make pdf"} <= set(published)
    for name in ("pages", "pypi"):
        assert read("publish.yml")["jobs"][name]["needs"] == ["test", "build"]
