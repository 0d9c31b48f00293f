"""Checks of RFC 9110 and 9112 on the head of a request that the parser does not make, and the parts of its target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import httptools

from llmariner.server.responses import INTERNAL_ERROR

__all__ = ["RequestRejected", "parse_head", "rejection_of", "request_scope", "split_target"]

_log = logging.getLogger(__name__)

# RFC 3986 3.2.2 and 3.2.3, in any order. User information is not part of a Host.
_HOST_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_MAX_CACHED_TARGET: Final = 256
_MAX_CACHED_TARGETS: Final = 1024
_MAX_CACHED_HOSTS: Final = 256

_known_hosts: Final[set[bytes]] = set()
_known_targets: Final[dict[bytes, tuple[str, bytes, bytes]]] = {}


class RequestRejected(Exception):
    """The request is not acceptable; `status` and `message` are those of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def rejection_of(error: httptools.HttpParserError) -> RequestRejected:
    """The response to bytes that the parser refused. What was raised in a callback of the parser is the error's context."""
    cause = error.__context__
    if isinstance(cause, RequestRejected):
        return cause
    if isinstance(error, httptools.HttpParserInvalidURLError) or isinstance(cause, httptools.HttpParserInvalidURLError):
        return RequestRejected(400, "The request's target is not a valid URL.")
    if isinstance(error, httptools.HttpParserCallbackError):
        _log.error("reading a request failed", exc_info=cause)
        return RequestRejected(500, INTERNAL_ERROR)
    return RequestRejected(400, f"This is not a valid HTTP/1.1 request: {error}.")


def request_scope(method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The ASGI scope of a request without the addresses of its ends. Raises httptools.HttpParserInvalidURLError."""
    path, raw_path, query = split_target(target)
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "method": method.decode("ascii"),
        "scheme": "http",
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
    }


def parse_head(version: str, headers: Sequence[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> tuple[bool, bool]:
    """Check the fields that framing and routing depend on. RequestRejected names the invalid one.

    `fields`: the headers by name. Returns whether the body is chunked, and whether the client waits for `100 Continue`.
    """
    if version not in ("1.1", "1.0"):
        raise RequestRejected(505, "Speak HTTP/1.1 here.")
    host, chunked = fields.get(b"host"), b"transfer-encoding" in fields
    repeated = len(fields) != len(headers)
    if (host is None and version == "1.1") or (repeated and len(_values(headers, b"host")) > 1):
        raise RequestRejected(400, "A request of HTTP/1.1 has the header 'Host', once.")
    if host is not None and not _is_host(host):
        raise RequestRejected(400, "The header 'Host' is not a host name, with or without a port.")
    if chunked:
        for value in _values(headers, b"transfer-encoding"):
            _check_coding(version, value)
    wants_continue = b"expect" in fields and version == "1.1" and fields[b"expect"].lower() == b"100-continue"
    return chunked, wants_continue


def _is_host(host: bytes) -> bool:
    """Whether a Host has only characters of a host name, an address and a port."""
    if host in _known_hosts:
        return True
    if host.translate(None, _HOST_CHARACTERS):
        return False
    # A server is addressed by few names. Only short ones are kept: 64 KiB of them in all.
    if len(host) <= _MAX_CACHED_TARGET and len(_known_hosts) < _MAX_CACHED_HOSTS:
        _known_hosts.add(host)
    return True


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """The values of a header field, in order."""
    return [value for other, value in headers if other == name]


def _check_coding(version: str, value: bytes) -> None:
    """Reject every transfer coding but `chunked` (RFC 9112 6.1 and 6.3)."""
    if version == "1.0":
        raise RequestRejected(400, "HTTP/1.0 has no 'Transfer-Encoding': send the body with a 'Content-Length'.")
    *others, last = value.lower().split(b",")
    if last.strip() != b"chunked":
        raise RequestRejected(400, "The last 'Transfer-Encoding' of a request has to be 'chunked'.")
    if others:
        raise RequestRejected(501, "No 'Transfer-Encoding' but 'chunked' is known here.")


def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """The decoded path, the raw path and the query of a request target.

    Bytes of the path that are not UTF-8 become U+FFFD. Raises httptools.HttpParserInvalidURLError.
    """
    found = _known_targets.get(target)
    if found is None:
        found = _split(target)
        # Most requests have one of few targets. Only short ones are kept: 256 KiB of them in all.
        if len(target) <= _MAX_CACHED_TARGET:
            if len(_known_targets) >= _MAX_CACHED_TARGETS:
                _known_targets.clear()
            _known_targets[target] = found
    return found


def _split(target: bytes) -> tuple[str, bytes, bytes]:
    parts = httptools.parse_url(target)
    raw_path = parts.path or b"/"
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return path.decode(errors="replace"), raw_path, parts.query or b""
