"""The copy of a server's tokens at a path of one's own: private, current, renewed in time, and gone at the end."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hybridstitch import Client
from hybridstitch.cli.main import main
from hybridstitch.errors import InvalidInput
from hybridstitch.serving.server.key_file import RENEW_SHARE, KeptKeyFile
from hybridstitch.serving.server.server import Server


@pytest.mark.server
def test_tokens_are_kept_renewed_and_removed(tmp_path: Path) -> None:
    store, path = tmp_path / "store", tmp_path / "keys.json"
    store.mkdir()
    with Server(store) as server:
        with KeptKeyFile(server, path) as kept, Client(server.url, key_file=path) as client:
            assert path.stat().st_mode & 0o777 == 0o600
            first = json.loads(path.read_text())
            assert first == json.loads(server.key_file.read_text())
            assert client.health()
            ends = datetime.fromisoformat(first["inference"]["expiration time"])
            life = ends - datetime.now(UTC)
            with pytest.raises(InvalidInput, match="no other server"), KeptKeyFile(server, path):
                pass  # each would overwrite the tokens of the other
            kept.look(ends - 2 * RENEW_SHARE * life)
            assert json.loads(server.key_file.read_text()) == first
            server.key_file.unlink()  # the keys are in memory, and the file comes back with the next look
            path.write_text("overwritten")
            kept.look(ends - RENEW_SHARE / 2 * life)
            renewed = json.loads(path.read_text())
            assert renewed == json.loads(server.key_file.read_text())
            assert path.stat().st_mode & 0o777 == server.key_file.stat().st_mode & 0o777 == 0o600
            assert all(renewed[kind]["key"] != first[kind]["key"] for kind in ("inference", "management"))
            assert client.health()  # it read the file again
            assert server.client.health()
            assert not Client(server.url, first["inference"]["key"]).health()
            path.unlink()
            deadline = time.monotonic() + 10
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert json.loads(path.read_text()) == renewed
        assert not path.exists()
        assert not list(tmp_path.glob(".*"))
        with pytest.raises(OSError, match="nowhere"), KeptKeyFile(server, tmp_path / "nowhere" / "keys.json"):
            pass


def test_a_server_without_tokens_keeps_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", "--store", str(tmp_path), "--no-auth", "--key-file", str(tmp_path / "keys.json")]) == 2
    assert "key-file" in capsys.readouterr().err
