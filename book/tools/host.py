"""Serves the built site as its host would: compressed, below its path, with 404.html."""

import gzip
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Browser, Playwright

from book import settings

# Which of the book's files a host compresses; pictures of points and fonts are dense.
TEXT = {".css", ".html", ".inv", ".js", ".json", ".svg", ".txt", ".xml"}


@cache
def compressed(path: Path, _changed: int) -> bytes:
    """A file after gzip, kept until it changes."""
    return gzip.compress(path.read_bytes(), 6)


class Host(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    site: Path
    prefix: str

    def do_GET(self) -> None:
        """Send a file, or the page for wrong addresses."""
        path, status = self.find(), HTTPStatus.OK
        if path is None:
            path, status = self.site / "404.html", HTTPStatus.NOT_FOUND
        zipped = path.suffix in TEXT and "gzip" in self.headers["Accept-Encoding"]
        body = (
            compressed(path, path.stat().st_mtime_ns) if zipped else path.read_bytes()
        )
        kind = guess_type(path.name)[0] or "application/octet-stream"
        self.send_response(status)
        self.send_header(
            "Content-Type", kind + "; charset=utf-8" * (path.suffix in TEXT)
        )
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=600")
        if zipped:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)

    def find(self) -> Path | None:
        """The file that an address means."""
        asked = unquote(urlsplit(self.path).path)
        if not asked.startswith(self.prefix):
            return None
        path = (self.site / asked.removeprefix(self.prefix)).resolve()
        path = path / "index.html" if path.is_dir() else path
        return path if path.is_file() and path.is_relative_to(self.site) else None

    def log_message(self, format: str, *args: object) -> None:
        """Write no log."""


def chromium_path() -> str | None:
    """Chromium as $CHROMIUM names it or the system has it; none means Playwright's own."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")


def chromium(playwright: Playwright) -> Browser:
    """Start Chromium, as it starts in a container too."""
    return playwright.chromium.launch(
        executable_path=chromium_path(),
        args=["--no-sandbox", "--disable-dev-shm-usage"],
    )


@contextmanager
def serve(site: Path) -> Iterator[str]:
    """Serve a site from a free port; yields the address of its front page."""
    prefix = urlsplit(settings()["pages_url"]).path
    handler = type("Site", (Host,), {"site": site.resolve(), "prefix": prefix})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{prefix}"
    finally:
        server.shutdown()
        server.server_close()
