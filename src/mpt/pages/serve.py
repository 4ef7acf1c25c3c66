"""Serves one page on this machine alone, and makes it again when its runs have changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mpt.pages.build import Page
from mpt.run.claim import NAME as CLAIM
from mpt.run.claim import is_claimed

HOST, PORT = "127.0.0.1", 8765
SHARE = 5  # the page is made again at most for one part in so many of the time
LEAST = 2.0  # seconds between two pages


class Watched:
    """The newest page of a folder: :meth:`page` makes it again if something there has changed.

    Args:
        folder: of runs.
        build: makes the page.
    """

    def __init__(self, folder: Path, build: Callable[[], Page]) -> None:
        self.folder, self.build = folder, build
        self.lock, self.made, self.took = threading.Lock(), 0.0, 0.0
        self.stamp: Any = None
        self.last: Page | None = None

    def page(self) -> Page:
        """The page. Raises what ``build`` raises."""
        with self.lock:
            now = time.monotonic()
            if self.last is not None and now < self.made + max(LEAST, SHARE * self.took):
                return self.last
            stamp = state_of(self.folder)
            if self.last is None or stamp != self.stamp:
                self.last, self.stamp = self.build(), stamp
                self.took = time.monotonic() - now
            self.made = time.monotonic()
            return self.last


def state_of(folder: Path) -> list[tuple[Any, ...]]:
    """What a page of ``folder`` depends on: time and size of every small file there, and which runs are at work."""
    found = list[tuple[Any, ...]]()
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in sorted(files)):
            if path.name == CLAIM:
                found.append((path, is_claimed(path.parent)))
            elif path.suffix in (".json", ".jsonl", ".yaml"):
                with suppress(OSError):  # it was replaced
                    about = path.stat()
                    found.append((path, about.st_mtime_ns, about.st_size))
    return found


def open_server(watched: Watched, *, port: int | None = None) -> ThreadingHTTPServer:
    """A server of the one page ``watched`` on this machine's loopback address; ``serve_forever`` starts it.

    Args:
        watched: the page.
        port: of the server; None for ``PORT``, or a free one if that is taken.

    Raises:
        ValueError: the port is taken.
    """
    handler = type("PageHandler", (_Handler,), {"watched": watched})
    for choice in (port,) if port is not None else (PORT, 0):
        try:
            return ThreadingHTTPServer((HOST, choice), handler)
        except OSError as error:
            reason = error.strerror
    raise ValueError(f"port={port} cannot be used ({reason}): choose another, or leave port out to take a free one")


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD of ``/``, asked of this machine by its own name; nothing else is there."""

    watched: Watched
    server_version, sys_version = "mpt", ""

    def do_GET(self) -> None:
        """Send the page."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Send its tag alone, by which a browser sees that the page has changed."""
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):  # another site's name for us
            self.send_error(403, "this page is for this machine alone")
            return
        if self.path.partition("?")[0] != "/":
            self.send_error(404, "there is one page here: /")
            return
        try:
            page = self.watched.page()
        except (OSError, ValueError):  # the folder is gone, or being made again
            self.send_error(503, "the page cannot be made now")
            return
        content = page.html.encode()
        self.send_response(200)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(content)),
            "ETag": f'"{page.digest}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: every look of a browser would be a line."""
