"""Unhandled exceptions are answered in OpenAI's format, without internal details, under every server."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from .http_calls import HttpRequest, send_over_http
from .processes import boot_command, framework_command, process

CRASHING = """
from llmariner.http.entrypoint import http_function


def build(_context):
    async def application(scope, receive, send):
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("of the inside")

    return application


handle = http_function(build)
"""


@pytest.mark.parametrize("command", [framework_command, boot_command], ids=["framework", "boot"])
def test_an_unhandled_error_has_no_internal_details(command: Any, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(CRASHING)
    with process(command(tmp_path), {}, tmp_path / "log") as port:
        for _ in range(2):
            answer = send_over_http(port, HttpRequest("POST", "/", {"field": "x"}))
            assert (answer.status, answer.headers["content-type"]) == (500, "application/json")
            assert answer.headers["x-request-id"].startswith("req_")
            assert json.loads(answer.body)["error"]["type"] == "server_error"
            assert b"of the inside" not in answer.body
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            send_over_http(port, HttpRequest("GET", "/begun"))
        assert send_over_http(port, HttpRequest("GET", "/")).status == 500
    assert "of the inside" in (tmp_path / "log").read_text()
