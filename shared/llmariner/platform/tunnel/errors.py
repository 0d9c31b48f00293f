"""What can go wrong on a tunnel, as its users see it."""

from __future__ import annotations

__all__ = ["HeadTooLong", "StreamReset", "TooManyStreams", "TunnelClosed", "TunnelError"]


class TunnelError(Exception):
    """Base of the tunnel's errors."""


class TunnelClosed(TunnelError):
    """The connection ended, and every stream of it. A request whose response has not begun may be sent on another one."""


class StreamReset(TunnelError):
    """One side ended a stream before its end; other streams continue. `code`: an error code of HTTP/2 (RFC 9113, 7)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class HeadTooLong(TunnelError):
    """A head has more bytes than the other side reads, which would end the whole connection; nothing was sent."""


class TooManyStreams(TunnelError):
    """The connection has as many open streams as the other side allows; nothing was sent."""
