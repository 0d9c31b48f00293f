"""Limits of one connection, in bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.environment import Environment, read_number

__all__ = ["ServerLimits"]


@dataclass(frozen=True)
class ServerLimits:
    """Bytes and seconds. Timeouts are checked every `tick_seconds`, so each may be exceeded by that much."""

    head_bytes: int = 64 * 1024
    """Request line and header fields."""

    head_fields: int = 256
    """Number of header fields."""

    head_seconds: float = 30.0
    """From the first byte of a head to its last."""

    idle_seconds: float = 120.0
    """`LLMARINER_KEEP_ALIVE_SECONDS`: the keep-alive timeout. It exceeds that of the proxies in front (Go's 90 s in
    queue-proxy and activator), so that no proxy sends a request on a connection that this server is closing."""

    body_seconds: float = 30.0
    """In each interval of so many seconds of reading, at least `body_bytes` of a body must arrive."""

    body_bytes: int = 240 * 30

    framing_bytes: int = 64 * 1024
    """Chunk sizes, chunk extensions and trailers, in addition to sixteen bytes for each byte of the body."""

    chunks: int = 4096
    """Chunks of a body, in addition to one for each 64 bytes of it."""

    write_seconds: float = 60.0
    """`LLMARINER_WRITE_TIMEOUT_SECONDS`: how long written bytes may wait for a client that does not read."""

    half_closed_seconds: float = 0.25
    """How long a response may still be sent to a client that closed its sending side. Most such clients are gone."""

    linger_bytes: int = 64 * 1024 * 1024
    """Bytes read and discarded after the last response, so that a client that still sends receives it (RFC 9112 9.6)."""

    linger_seconds: float = 30.0
    """How long bytes are discarded, at most."""

    linger_quiet_seconds: float = 5.0
    """How long to wait for a further byte to discard."""

    connections_per_address: int = 0
    """`LLMARINER_CONNECTIONS_PER_ADDRESS`: open connections per IPv4 address or IPv6 /64 network. 0 means no limit, which
    is right behind a proxy, whose address all clients share."""

    tick_seconds: float = 1.0

    @classmethod
    def load(cls, env: Environment) -> ServerLimits:
        """Read the limits from environment variables. ValueError names the invalid variable."""
        default = cls()
        return cls(
            idle_seconds=read_number(env, "LLMARINER_KEEP_ALIVE_SECONDS", default.idle_seconds, minimum=1),
            write_seconds=read_number(env, "LLMARINER_WRITE_TIMEOUT_SECONDS", default.write_seconds, minimum=0.1),
            connections_per_address=int(
                read_number(env, "LLMARINER_CONNECTIONS_PER_ADDRESS", default.connections_per_address)
            ),
        )
