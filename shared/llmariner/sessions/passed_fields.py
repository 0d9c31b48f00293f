"""What a client may say to an API server. Everything else stays here: its token, cookies, who else it wants to be."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmariner.errors import InvalidRequest

__all__ = ["passed_fields"]

_PASSED = frozenset(
    {b"accept", b"content-type", b"user-agent", b"sec-websocket-protocol", b"x-stream-protocol-version"}
)
_MAX_FIELD = 4096
# Of all fields, each with the 32 bytes that HTTP/2 counts beside it. A longer head than the agent reads ends its connection.
_MAX_FIELDS, _FIELD_BYTES = 16 * 1024, 32
# Kubernetes reads a token from another one of these (`base64url.bearer.authorization.k8s.io.…`).
_SUBPROTOCOL = re.compile(
    rb"(?:v[1-9]\.)?(?:base64\.)?(?:channel|binary)\.k8s\.io|(?:SPDY/3\.1\+)?portforward\.k8s\.io", re.IGNORECASE
)


def passed_fields(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those fields of a request that are sent to the cluster. InvalidRequest for what is too long."""
    found: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        if name not in _PASSED:
            continue
        if len(value) > _MAX_FIELD:
            raise InvalidRequest(f"The header '{name.decode()}' is over {_MAX_FIELD} bytes.")
        passed = _subprotocols(value) if name == b"sec-websocket-protocol" else value.strip()
        if passed or name != b"sec-websocket-protocol":
            found.append((name, passed))
    if sum(len(name) + len(value) + _FIELD_BYTES for name, value in found) > _MAX_FIELDS:
        raise InvalidRequest(f"The headers for the cluster have over {_MAX_FIELDS} bytes together: send fewer of them.")
    return found


def _subprotocols(value: bytes) -> bytes:
    offered = [each.strip() for each in value.split(b",")]
    return b", ".join(each for each in offered if _SUBPROTOCOL.fullmatch(each))
