"""Checks of RFC 9110 and 9112 on the head of a request that the parser does not make, and the parts of its target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

__all__ = ["RequestHead", "RequestRejected", "parse_head", "split_target"]

_CHECKED_FIELDS = frozenset({b"host", b"transfer-encoding", b"expect"})
# RFC 3986 3.2.2 and 3.2.3, in any order. User information is not part of a Host.
_HOST_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=%:[]"
_MAX_CACHED_TARGET = 256


class RequestRejected(Exception):
    """The request is not acceptable; `status` and `message` are those of the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class RequestHead(NamedTuple):
    """The header fields that the server itself acts on."""

    chunked: bool
    wants_continue: bool


def parse_head(version: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestHead:
    """Check the fields that framing and routing depend on. RequestRejected names the invalid one."""
    if version not in ("1.1", "1.0"):
        raise RequestRejected(505, "Speak HTTP/1.1 here.")
    hosts, chunked, wants_continue = 0, False, False
    for name, value in headers:
        if name not in _CHECKED_FIELDS:
            continue
        if name == b"host":
            hosts += 1
            if value.translate(None, _HOST_CHARACTERS):
                raise RequestRejected(400, "The header 'Host' is not a host name, with or without a port.")
        elif name == b"expect":
            wants_continue = version == "1.1" and value.lower() == b"100-continue"
        else:
            _check_coding(version, value)
            chunked = True
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise RequestRejected(400, "A request of HTTP/1.1 has the header 'Host', once.")
    return RequestHead(chunked, wants_continue)


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
    # Most requests have one of few targets. Only short ones are cached: 256 KiB of targets in all.
    return _split_cached(target) if len(target) <= _MAX_CACHED_TARGET else _split(target)


def _split(target: bytes) -> tuple[str, bytes, bytes]:
    parts = httptools.parse_url(target)
    raw_path = parts.path or b"/"
    path = unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path
    return path.decode(errors="replace"), raw_path, parts.query or b""


_split_cached = lru_cache(maxsize=1024)(_split)
