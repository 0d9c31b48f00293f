"""How the container that fetches the weights of a base model meets a store that ignores ranges, and a full disk."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.training_program import platform as platform_module
from llmariner.fine_tuning.training_program.platform import Platform
from llmariner.fine_tuning.training_program.weights import fetch_weights

CONTENT = bytes(range(256)) * 4
FILE = {"path": "model.safetensors", "size": 1024, "sha256": "", "md5": "", "version": '"1"', "pieces": [512, 512]}


@pytest.fixture
def asked() -> Iterator[list[str]]:
    """The URL of a platform whose store sends whole objects, and after it the paths that are asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            kind, content = "application/octet-stream", CONTENT
            if self.path.startswith("/job/"):
                start = int(self.path.partition("start=")[2].partition("&")[0])
                content = CONTENT[start : start + 512]
                if self.path.endswith("signed=true"):
                    link = {"url": f"{url}/store", "headers": {"range": f"bytes={start}-{start + 511}"}}
                    kind, content = "application/json", json.dumps(link).encode()
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    paths.append(url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield paths
    server.shutdown()
    thread.join()
    server.server_close()


def test_of_a_store_that_ignores_ranges_a_piece_is_read_and_then_none(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform_module, "_TRY_SECONDS", 5.0)
    made = Platform(f"{asked[0]}/job", "token")
    assert made.weights_piece(FILE, 512, 512) == CONTENT[512:]
    assert made.weights_piece(FILE, 0, 512) == CONTENT[:512]
    assert asked.count("/store") == 1


class OnePiece:
    """The platform of a file of one piece."""

    def weights(self) -> list[dict[str, Any]]:
        return [{**FILE, "pieces": [1024]}]

    def weights_piece(self, _file: object, _start: int, _size: int) -> bytes:
        return CONTENT


def test_a_disk_that_takes_a_part_of_a_piece_is_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, start: write(number, data[:100], start))
    with pytest.raises(OSError, match="No space left") as raised:
        fetch_weights(OnePiece(), tmp_path)  # type: ignore[arg-type]
    assert raised.value.errno == errno.ENOSPC
    assert not (tmp_path / "model.safetensors").exists()
