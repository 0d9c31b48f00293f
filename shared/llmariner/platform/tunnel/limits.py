"""Limits of one connection of the tunnel, in bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TunnelLimits"]


@dataclass(frozen=True)
class TunnelLimits:
    """Bytes and seconds. The defaults bound a connection whose 10,000 streams nobody reads to `buffered_bytes`."""

    streams: int = 16_384
    """Open streams that the other side may have."""

    stream_window: int = 64 * 1024
    """What may be sent on a new stream before its reader takes any."""

    largest_window: int = 1024 * 1024
    """What the window of a stream grows to while its reader keeps up with a fast sender."""

    grown_bytes: int = 64 * 1024 * 1024
    """By how much all windows of a connection together may have grown."""

    buffered_bytes: int = 64 * 1024 * 1024
    """Received and not yet read, of all streams together; over it, the stream with the most is reset."""

    frame_bytes: int = 64 * 1024
    """Of one DATA frame: streams take turns by frames, so this is what a stream waits for another one."""

    message_bytes: int = 256 * 1024
    """Of one message of the websocket."""

    unsent_bytes: int = 256 * 1024
    """Frames that wait for the socket; writers of streams wait while there are more."""

    unsent_control_bytes: int = 4 * 1024 * 1024
    """Frames besides that, which answer the other side's: over it, the other side sends and does not read."""

    header_bytes: int = 64 * 1024
    """Of a head, uncompressed."""

    write_seconds: float = 30.0
    """How long one message may wait for a socket that takes nothing, before the connection is given up."""

    ping_seconds: float = 15.0
    """Between two pings of an open connection, each of which must be answered within the same time."""
