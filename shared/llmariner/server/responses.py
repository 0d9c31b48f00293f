"""Responses that the server sends without the application, and status lines."""

from __future__ import annotations

import http
import json
import os
from collections.abc import Iterable

__all__ = ["CONTINUE", "INTERNAL_ERROR", "error_response", "field_lines", "status_line"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
INTERNAL_ERROR = "Something broke on our side."
_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
_CODES = {
    408: "request_timeout",
    414: "request_too_large",
    429: "too_many_connections",
    431: "request_too_large",
    500: None,
}


def status_line(status: int) -> bytes:
    """The status line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def field_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The lines of header fields, each ended by CRLF."""
    lines = b"\r\n".join(map(b": ".join, headers))  # without a loop in Python, which would cost ten times as much
    return lines + b"\r\n" if lines else b""


def error_response(status: int, message: str, date: bytes) -> bytes:
    """A complete error response to a request that no application answers; it announces `connection: close`."""
    kind = "server_error" if status == 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    error = {"message": message, "type": kind, "param": None, "code": _CODES.get(status, "bad_request")}
    body = json.dumps({"error": error}).encode()
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
    return b"%b%b%bx-request-id: req_%b\r\n\r\n%b" % (
        status_line(status),
        date,
        head,
        os.urandom(12).hex().encode(),
        body,
    )
