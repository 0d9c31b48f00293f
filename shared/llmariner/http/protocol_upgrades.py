"""Requests that change the protocol of their connection (RFC 9110, 7.8): what they offer, and the connection afterwards."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

from llmariner.errors import InvalidRequest, Unavailable

__all__ = ["offered_protocol", "upgradable_cycle", "upgraded_streams"]

_EXTENSION = "llmariner.response"
_KEY_BYTES = 16
_READER_BYTES = 128 * 1024


def offered_protocol(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """`websocket` or `SPDY/3.1`, if the request offers it as RFC 9110 and 6455 say; None without an offer.

    InvalidRequest for another protocol, more than one, or a handshake that is not whole.
    """
    values = [value for name, value in headers if name == b"upgrade"]
    if not values:
        return None
    connection = b",".join(value for name, value in headers if name == b"connection").lower()
    offered = values[0].strip().lower()
    if len(values) > 1 or b"upgrade" not in [each.strip() for each in connection.split(b",")]:
        raise InvalidRequest("The headers 'Upgrade' and 'Connection' don't belong together.", code="invalid_upgrade")
    if offered == b"spdy/3.1":
        return "SPDY/3.1"
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    version = [value for name, value in headers if name == b"sec-websocket-version"]
    if offered != b"websocket" or len(keys) != 1 or not _is_key(keys[0]) or version != [b"13"]:
        raise InvalidRequest("Offer 'websocket' in version 13, with a key, or 'SPDY/3.1'.", code="invalid_upgrade")
    return "websocket"


def upgradable_cycle(scope: Any) -> Any:
    """The request's cycle, whose `upgrade` changes the protocol. Raises Unavailable where the server can't do that."""
    cycle = scope["extensions"].get(_EXTENSION) if "extensions" in scope else None
    if cycle is None or not hasattr(cycle, "upgrade"):
        raise Unavailable(
            "This server can't change the protocol of a connection: start the function with `python -m llmariner.boot`.",
            code="upgrade_not_supported",
            headers={"x-should-retry": "false"},
        )
    return cycle


def upgraded_streams(
    cycle: Any, fields: list[tuple[bytes, bytes]], on_shutdown: Callable[[], None]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Change the protocol; the connection as streams. Raises InvalidRequest for a request with a body or bytes behind it."""
    reader = asyncio.StreamReader(limit=_READER_BYTES)
    protocol = asyncio.StreamReaderProtocol(reader)
    if not cycle.upgrade(fields, protocol, on_shutdown):
        raise InvalidRequest("A request that changes the protocol has no body and nothing behind it.")
    writer = asyncio.StreamWriter(protocol._transport, protocol, reader, asyncio.get_running_loop())  # type: ignore[attr-defined]
    return reader, writer


def _is_key(value: bytes) -> bool:
    """Whether this is a `Sec-WebSocket-Key` (RFC 6455): base64 of 16 bytes."""
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
