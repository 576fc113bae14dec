"""Runs Lighthouse on the built site, as its host would serve it.

    python -m book.tools.lighthouse [page …]

Fails where a page has less than 95 in a category. Speed is measured in time, so a busy
machine lowers it, and nothing raises it: a page below gets two more tries. The last
column is Lighthouse's measure of the machine's speed, which falls when it is busy.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import sync_playwright

from book import ROOT
from book.tools.host import chromium_path, serve

VERSION = "13.5.0"
PAGES = ["", "chapters/04_gates.html", "chapters/12_training.html", "playground.html"]
CATEGORIES = ["performance", "accessibility", "best-practices", "seo"]
ENOUGH = 95
TRIES = 3
FOLDER = ROOT / "_build" / "lighthouse"


def install() -> Path:
    """Lighthouse's command, from npm."""
    command = FOLDER / "node_modules" / "lighthouse" / "cli" / "index.js"
    package = command.parents[1] / "package.json"
    if (
        package.exists()
        and json.loads(package.read_text("utf-8"))["version"] == VERSION
    ):
        return command
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit(
            "Lighthouse comes from npm, and there is no npm: install Node.js"
        )
    FOLDER.mkdir(parents=True, exist_ok=True)
    quiet = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
    run = subprocess.run(
        [npm, "install", "--prefix", str(FOLDER), *quiet, f"lighthouse@{VERSION}"],
        capture_output=True,
        encoding="utf-8",
    )
    if run.returncode:
        raise SystemExit(f"npm gave no Lighthouse: {run.stderr.strip()[:300]}")
    return command


def measure(command: Path, chromium: str, address: str) -> dict[str, int]:
    """The scores of one page, 0 to 100, and the speed of the machine."""
    node, _ = compute_driver_executable()
    flags = "--headless=new --no-sandbox --disable-dev-shm-usage"
    run = subprocess.run(
        [
            node,
            str(command),
            address,
            "--quiet",
            "--output=json",
            f"--only-categories={','.join(CATEGORIES)}",
            f"--chrome-flags={flags}",
        ],
        env=os.environ | {"CHROME_PATH": chromium},
        capture_output=True,
        encoding="utf-8",
    )
    if run.returncode:
        raise SystemExit(f"Lighthouse failed on {address}: {run.stderr.strip()[-500:]}")
    report = json.loads(run.stdout)
    (FOLDER / "report.json").write_text(run.stdout, "utf-8")
    scores = {
        name: round(100 * (report["categories"][name]["score"] or 0))
        for name in CATEGORIES
    }
    return scores | {"machine": round(report["environment"]["benchmarkIndex"])}


def main(pages: list[str]) -> int:
    """Print the table; the number of pages that have too little."""
    with sync_playwright() as playwright:
        chromium = chromium_path() or playwright.chromium.executable_path
    if not Path(chromium).exists():
        raise SystemExit("there is no Chromium: install it, or name it in CHROMIUM")
    command, failed = install(), 0
    columns = [*CATEGORIES, "machine"]
    print(f"{f'Lighthouse {VERSION}':28}" + "".join(f"{c:>16}" for c in columns))
    with serve(ROOT / "_build" / "html") as address:
        for page in pages:
            best = dict.fromkeys(columns, 0)
            for _ in range(TRIES):
                scores = measure(command, chromium, address + page)
                best = {column: max(best[column], scores[column]) for column in columns}
                enough = all(best[name] >= ENOUGH for name in CATEGORIES)
                if enough:
                    break
            row = "".join(f"{best[column]:16}" for column in columns)
            print(f"{page or 'front page':28}{row}", flush=True)
            failed += not enough
    if failed:
        print(f"{failed} of {len(pages)} pages have less than {ENOUGH} in a category")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or PAGES))
