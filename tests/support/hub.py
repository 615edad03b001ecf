"""A hub of models on this machine, which speaks as much of the Hugging Face Hub's HTTP as its client needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.http_server import serving

COMMIT = "1" * 40


@contextmanager
def hub(repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as repositories.

    Args:
        repositories: by id, the folder.
        gated: ids whose files may not be read.

    Yields:
        The address, and a list of the files that were sent so far, as `id/file`.
    """
    sent: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        for name, folder in repositories.items():
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            names = [file.relative_to(folder).as_posix() for file in files]
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                return reply(request, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": each} for each in names]})
            if path.startswith(f"/api/models/{name}/tree/"):
                sizes = [file.stat().st_size for file in files]
                listed = [
                    {"type": "file", "path": each, "size": size, "oid": each}
                    for each, size in zip(names, sizes, strict=True)
                ]
                return reply(request, listed)
            inside = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
            if path.startswith(f"/{name}/resolve/") and inside in names:
                if name in gated:
                    return reply(request, {}, 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "not granted"})
                content = (folder / inside).read_bytes()
                if request.command == "GET":
                    sent.append(f"{name}/{inside}")
                tag = hashlib.sha256(content + inside.encode()).hexdigest()  # the client shares equal ones
                return reply(request, content, 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        return reply(request, {}, 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    with serving(answer) as address:
        yield address, sent


def reply(
    request: BaseHTTPRequestHandler, body: object, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Send one answer; only its head to HEAD."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request.send_response(status)
    for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
