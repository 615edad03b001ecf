"""A TorchServe handler for tests of the client: it echoes a request, or does what its fields describe."""

import json
import os
import time


def handle(rows, context):
    """Answer with what was sent.

    Fields of a request: `begun` is a file to create at the start, `sleep` the seconds to wait, `size` the bytes of the
    answer, `body` the whole answer.
    """
    if rows is None:
        return None
    if context.get_request_header(0, "describe"):
        return [{"process": os.getpid()}]
    return [_answer(row, context, index) for index, row in enumerate(rows)]


def _answer(row, context, index):
    raw = row.get("body", row.get("data"))
    payload = raw if isinstance(raw, dict) else json.loads(bytes(raw))
    if "begun" in payload:
        open(payload["begun"], "w").close()
    time.sleep(payload.get("sleep", 0))
    if "body" in payload:
        return json.dumps(payload["body"]).encode()
    headers = context.get_all_request_header(index)
    return json.dumps(
        {
            "version": context.manifest["model"]["modelVersion"],
            "payload": payload,
            "explains": headers.get("explain") == "True",
            # Over gRPC there is a header of this name too, but it only holds the type of the field.
            "start": bytes(row["x-request-start"]).decode() if "x-request-start" in row else headers["x-request-start"],
            "filling": "." * payload.get("size", 0),
        }
    ).encode()
