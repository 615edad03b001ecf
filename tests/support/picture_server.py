"""A small HTTP server that draws real pictures with a pair in this process, and answers in the shapes of others."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from hybridstitch.compare.endpoints.open import open_endpoint
from hybridstitch.compare.endpoints.spec import parse_endpoint
from hybridstitch.wire.dialects.kserve_v1 import KServeV1
from hybridstitch.wire.dialects.kserve_v2 import KServeV2

TOKEN = "s3cret-of-the-test"
BY_DIALECT = {"/v1/models/x:predict": KServeV1(), "/v2/models/x/infer": KServeV2("x", "1")}


@contextmanager
def drawing_server(pair: Path, recipe: str = "large", steps: int = 2) -> Iterator[str]:
    """Serve `/image`, `/base64`, `/pixels`, `/text`, paths of other protocols, and faulty endpoints; the address."""
    endpoint = open_endpoint(parse_endpoint(f"{pair}#recipe={recipe}&num_inference_steps={steps}"))

    def draw(prompt: str, seed: int) -> bytes:
        answer = endpoint.ask(prompt, seed)
        assert answer.picture, answer.error
        return answer.picture

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = respond(self.path, body, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            if self.path == "/redirect":
                self.send_header("Location", "/image")
            self.end_headers()
            with suppress(OSError):  # the client gives up
                if self.path != "/drops":
                    self.wfile.write(answer)
                    return
                for byte in answer[:30]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)

        def log_message(self, *_: Any) -> None:
            pass

    def respond(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if path == "/text":
            return 200, json.dumps(pixels(draw(body.decode(), 0))).encode()
        asked = json.loads(body)
        if path in BY_DIALECT:
            (reading,) = BY_DIALECT[path].read(asked).readings
            encoded = base64.b64encode(draw(reading.fields["prompt"], reading.fields["seed"])).decode()
            tensor = {"name": "generated", "shape": [1], "datatype": "BYTES", "data": [encoded]}
            return 200, json.dumps({"predictions": [encoded]} if "v1" in path else {"outputs": [tensor]}).encode()
        if path == "/refusing":
            return 500, f"<b>no</b> {headers.get('Authorization')}".encode()
        if path == "/redirect":
            return 302, b""
        if path == "/slow":
            time.sleep(1.5)
        if path == "/flaky" and asked["seed"] == 1:
            return 503, b"<script>alert('server')</script>"
        picture = draw(asked.get("prompt", "x"), asked.get("seed", 0))
        encoded = base64.b64encode(picture).decode()
        if path == "/v1/images/generations":
            assert asked["n"] == 1
            assert asked["response_format"] == "b64_json"
            return 200, json.dumps({"created": 1, "data": [{"b64_json": encoded}]}).encode()
        answers = {
            "/base64": {"output": {"images": [f"data:image/png;base64,{encoded}"]}, "took": "1 s"},
            "/two": [encoded, encoded],
            "/pixels": pixels(picture),
            "/nothing": {"ok": True},
        }
        if path in answers:
            return 200, json.dumps(answers[path]).encode()
        return 200, {"/broken": picture[:200], "/noise": b"\x00\x01"}.get(path, picture)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # the end waits for answers that are still being drawn
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def pixels(picture: bytes) -> list[Any]:
    """Rows of columns of channels."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).tolist()
