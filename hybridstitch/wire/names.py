"""Names and limits that clients and servers share. Nothing here imports torch."""

from __future__ import annotations

HEADER_PREFIX = "x-hybridstitch-"
"""Begins the headers of an image answer that describe its picture."""
WORKER_HEADER = f"{HEADER_PREFIX}worker"
"""The header of every answer with the process id of the worker that sent it."""
REQUEST_START = "x-request-start"
"""The header, over gRPC the input, with the time when the client or its proxy sent the request.

`t=` and seconds since 1970, as nginx writes it, or milliseconds. It shows how long the request waited in the queue.
"""
STREAM_TYPE = "application/x-ndjson"
"""Content type of a streamed answer."""
METADATA_KEY = "hybridstitch"
"""The text chunk of a PNG that holds its request as JSON."""
PROCESS = "process"
"""The key of a description with the process id of the worker that sent it."""
IN_BAND = "explain"
"""The field of a prediction whose value is a request for an explanation; over gRPC there is no other way."""
MAX_SEED = 2**53 - 1
"""The largest integer that every JSON reader keeps exact."""
MAX_IMAGES = 8
"""The most pictures of one request."""
REQUEST_ID = "[ -~]{1,128}"
"""Regular expression of a request's id. A header repeats it."""
