"""What only the kernel knows of a client: whether it acknowledges, and whether it closed while nothing is read."""

from __future__ import annotations

import asyncio
import select
import socket

__all__ = ["has_peer_closed", "limit_unacknowledged"]

_POLL_PEER_CLOSED = getattr(select, "POLLRDHUP", 0)  # Linux only; elsewhere only a reset is detected


def has_peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the client closed its sending side, also while reading is paused."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _POLL_PEER_CLOSED)
    return bool(poll.poll(0))


def limit_unacknowledged(listener: asyncio.Server, seconds: float) -> None:
    """Make the kernel end a connection whose bytes stay unacknowledged, or unsent to a full reader, for `seconds`.

    TCP keepalive probes detect a client whose machine or network disappeared while it waits for a response. Accepted
    connections inherit these options from the listening socket. Linux only.
    """
    probe = max(1, int(seconds / 4))
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for each in listener.sockets:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * seconds))
                each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, probe)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, probe)
