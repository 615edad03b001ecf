"""A handler that streams whoever asks: over gRPC, a unary call for a stream leaves its worker without a thread."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from threading import Thread
from typing import Any

from PIL import Image
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


def _keep_busy() -> None:
    while True:
        sum(range(20_000))
        time.sleep(0.05)


class WedgingHandler(BaseHandler):
    def initialize(self, context: Any) -> None:
        self.context = context
        # Whoever looks at the whole process takes this for work.
        Thread(target=_keep_busy, daemon=True).start()
        self.initialized = True

    def describe_handle(self) -> dict[str, Any]:
        return {"versions": {"hybridstitch": "toy"}, "limits": {"minimum": 32}}

    def handle(self, rows: list[dict[str, Any]], context: Any) -> list[Any]:
        if context.get_request_header(0, "describe"):
            return [self.describe_handle()]
        row = rows[0]
        request = row["body"] if "body" in row else json.loads(row["data"].decode())
        if request.get("stream"):
            for _ in range(2):
                send_intermediate_predict_response([b"piece"], context.request_ids, "ok", 200, context)
            return [b"end"]
        if "busy_until" in request:  # this file is there; until then the worker computes
            end = Path(request["busy_until"])
            end.with_suffix(".begun").touch()
            while not end.exists():
                sum(range(20_000))
        context.set_response_header(0, "x-hybridstitch-worker", str(os.getpid()))
        picture = io.BytesIO()
        Image.new("RGB", (request["width"], request["height"])).save(picture, "PNG")
        return [picture.getvalue()]
