"""What all callers of the function `sessions` share: connections to clusters, and heads of requests on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import Depends, Request

from llmariner.http.tunneled_responses import OpenStream
from llmariner.platform.tunnel import Stream
from llmariner.sessions.passed_fields import passed_fields
from llmariner.sessions.tunnels import Tunnels

__all__ = ["head_fields", "of_functions", "stream_opener", "tunnels_of"]


def of_functions(dependency: Any) -> Any:
    """A dependency of routes that people can't call: the holder of a key or token of their own kind can."""
    dependency.scope, dependency.objects = None, "functions"
    return Depends(dependency)


def tunnels_of(request: Request) -> Tunnels:
    """The connections to clusters of this replica."""
    tunnels = request.app.state.tunnels
    assert isinstance(tunnels, Tunnels)
    return tunnels


def stream_opener(tunnels: Tunnels, cluster_id: str) -> OpenStream:
    """What opens a stream to a cluster."""

    async def open_stream(fields: Sequence[tuple[bytes, bytes]], end: bool, tried: set[str]) -> Stream:
        return await tunnels.request(cluster_id, fields, end=end, tried=tried)

    return open_stream


def head_fields(request: Request, target: bytes, protocol: str | None) -> list[tuple[bytes, bytes]]:
    """The head of the request for the cluster, without who asks."""
    method = request.method.encode()
    fields = [
        (b":method", b"CONNECT" if protocol else method),
        (b":scheme", b"https"),
        (b":authority", b"kubernetes"),
        (b":path", target),
    ]
    if protocol:
        fields += [(b":protocol", protocol.encode()), (b"llmariner-method", method)]
    return [*fields, *passed_fields(request.scope["headers"])]
