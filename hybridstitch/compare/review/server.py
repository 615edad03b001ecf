"""A local page that shows samples in hidden order and stores which picture a person prefers."""

from __future__ import annotations

import secrets
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs

import numpy as np
from PIL import Image

from hybridstitch.base.images import encode_image
from hybridstitch.compare.comparison import Comparison
from hybridstitch.compare.review.preference import CHOICES, judgements, keep, left_side, order_of_samples
from hybridstitch.compare.run.folder import Folder
from hybridstitch.compare.run.order import Cell
from hybridstitch.errors import InvalidInput, Problem
from hybridstitch.html.document import render_page

LOOPBACK = "127.0.0.1"
LONGEST_BODY = 256
"""The most bytes of a judgement."""


class Rating:
    """Serves the samples of a comparison that are not judged yet. Use it as a context manager; open `url` in a browser.

    Samples with a failure and samples with identical pictures are not shown.
    """

    def __init__(self, comparison: Comparison, folder: Folder, port: int = 0):
        """Prepare the page.

        Args:
            comparison: The settings of the comparison.
            folder: Its folder.
            port: Port on this machine; 0 selects a free one.

        Raises:
            InvalidInput: The folder has no sample to show, or the port is taken.
        """
        self.folder, self._order_seed = folder, comparison.order_seed
        self.prompts = comparison.prompts
        rows = folder.rows()
        self.pictures: dict[Cell, dict[str, str]] = {}
        for cell in folder.complete():
            a, b = rows["a", cell], rows["b", cell]
            if a.picture and b.picture and a.sha256 != b.sha256:
                self.pictures[cell] = {"a": a.picture, "b": b.picture}
        if not self.pictures:
            raise InvalidInput([Problem("folder", "a comparison with pairs that are not identical", str(folder.path))])
        self.order = order_of_samples([*self.pictures], self._order_seed)
        self.judged = set(judgements(folder.path)) & set(self.pictures)
        self._lock = Lock()
        self._token = secrets.token_urlsafe(16)
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(self, f"/{self._token}/"))
        except (OSError, OverflowError) as error:
            raise InvalidInput([Problem("port", "a free port", port)]) from error
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The page. Its path is random: other pages of the browser cannot guess it."""
        return f"http://{LOOPBACK}:{self._server.server_port}/{self._token}/"

    @property
    def left_to_judge(self) -> int:
        """The number of samples that are not judged yet."""
        return len(self.order) - len(self.judged)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait(self) -> None:
        """Return when every sample is judged, or at Ctrl-C."""
        try:
            while self.left_to_judge:
                time.sleep(0.2)
            time.sleep(1)  # the browser still fetches the last page
        except KeyboardInterrupt:
            return

    def judge(self, number: int, choice: str) -> None:
        """Store the judgement of a sample. number: Its place in the shown order."""
        with self._lock:
            keep(self.folder.path, self.order[number], choice, time.time(), self._order_seed)
            self.judged.add(self.order[number])

    def page(self, nonce: str) -> str:
        """Return the page of the first sample that is not judged, or the last page."""
        index = next((number for number, cell in enumerate(self.order) if cell not in self.judged), None)
        return render_page(
            "rate.html",
            index=index,
            prompt=None if index is None else self.prompts[self.order[index][0]],
            number=len(self.judged) + 1,
            count=len(self.order),
            nonce=nonce,
        )

    def picture(self, number: int, place: str) -> bytes:
        """Return the left or right picture as a PNG without the metadata that would reveal its endpoint."""
        cell = self.order[number]
        left = left_side(cell, self._order_seed)
        side = left if place == "left" else "b" if left == "a" else "a"
        with Image.open(self.folder.path / self.pictures[cell][side]) as image:
            return encode_image(Image.fromarray(np.asarray(image.convert("RGB"))), "png")


def _handler(rating: Rating, root: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.removeprefix(root).split("/") if self.path.startswith(root) else []
            if parts == [""]:
                nonce = secrets.token_urlsafe(12)
                return self._send(200, rating.page(nonce).encode(), "text/html; charset=utf-8")
            if len(parts) == 2 and self._is_number(parts[0]) and parts[1] in ("left", "right"):
                return self._send(200, rating.picture(int(parts[0]), parts[1]), "image/png")
            return self._send(404, b"not here", "text/plain")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != f"{root}judge" or not length.isdecimal() or int(length) > LONGEST_BODY:
                return self._send(404, b"not here", "text/plain")
            form = parse_qs(self.rfile.read(int(length)).decode("ascii", "replace"))
            number, choice = form.get("pair", [""])[0], form.get("choice", [""])[0]
            if not self._is_number(number) or choice not in CHOICES:
                return self._send(400, b"a pair and left, right or tie are needed", "text/plain")
            rating.judge(int(number), choice)
            self.send_response(303)
            self.send_header("Location", root)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Log nothing: the console shows messages for the person who judges."""

        def _is_number(self, text: str) -> bool:
            return text.isdecimal() and len(text) < 9 and int(text) < len(rating.order)

        def _send(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            headers = {"Content-Type": content_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            for name, value in {**headers, "Referrer-Policy": "no-referrer"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler
