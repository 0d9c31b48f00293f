"""What one connection may take of a process, in bytes and in time."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_number

__all__ = ["ServerLimits"]


@dataclass(frozen=True)
class ServerLimits:
    """Bytes and seconds. Time is looked at once in `tick_seconds`, so every limit of time may be exceeded by that."""

    head_bytes: int = 64 * 1024
    """Request line and header fields."""

    head_fields: int = 256
    """Header fields."""

    head_seconds: float = 30.0
    """From the first byte of a head to its last."""

    idle_seconds: float = 120.0
    """`LLMARINER_KEEP_ALIVE_SECONDS`: of a connection without a request. Longer than any proxy before us keeps one: Go's
    90 s (queue-proxy, activator). Else a request could meet our close."""

    body_seconds: float = 30.0
    """In each span of so many seconds in which we read, `body_bytes` of a body have to come."""

    body_bytes: int = 240 * 30

    framing_bytes: int = 64 * 1024
    """Chunk sizes, chunk extensions and trailers, beyond sixteen bytes for each of a body."""

    chunks: int = 4096
    """Chunks of a body, beyond one for each 64 bytes of it."""

    write_seconds: float = 60.0
    """`LLMARINER_WRITE_TIMEOUT_SECONDS`: how long what was written may wait for a caller that does not read."""

    half_closed_seconds: float = 0.25
    """How long a caller that ended its side of the connection is believed to listen still. Most have gone."""

    linger_bytes: int = 64 * 1024 * 1024
    """What is read and dropped after the last answer, so that a caller still sending hears it (RFC 9112 9.6)."""

    linger_seconds: float = 30.0
    """How long, at most."""

    linger_quiet_seconds: float = 5.0
    """How long without a byte."""

    connections_per_address: int = 0
    """`LLMARINER_CONNECTIONS_PER_ADDRESS`: of an address of IPv4, or a network of 64 bits in IPv6. 0 for no limit, as
    behind a proxy, whose address all callers have."""

    tick_seconds: float = 1.0

    @classmethod
    def load(cls, env: Environment) -> ServerLimits:
        """Read from a mapping. ValueError says which variable is wrong."""
        return cls(
            idle_seconds=read_number(env, "LLMARINER_KEEP_ALIVE_SECONDS", cls.idle_seconds, minimum=1),
            write_seconds=read_number(env, "LLMARINER_WRITE_TIMEOUT_SECONDS", cls.write_seconds, minimum=0.1),
            connections_per_address=int(
                read_number(env, "LLMARINER_CONNECTIONS_PER_ADDRESS", cls.connections_per_address)
            ),
        )
