"""The tunnel: HTTP/2 connections inside websockets that the agents of worker clusters open to the control plane.

The roles are reversed: the side that accepted the websocket is the HTTP/2 client and sends requests on it, so nothing
listens in a worker cluster. An upgraded connection (exec, port-forward) is an extended CONNECT (RFC 8441).
"""

from llmariner.platform.tunnel.errors import HeadTooLong, StreamReset, TooManyStreams, TunnelClosed, TunnelError
from llmariner.platform.tunnel.http2 import Http2Connection
from llmariner.platform.tunnel.limits import TunnelLimits
from llmariner.platform.tunnel.stream import Stream

__all__ = [
    "HeadTooLong",
    "Http2Connection",
    "Stream",
    "StreamReset",
    "TooManyStreams",
    "TunnelClosed",
    "TunnelError",
    "TunnelLimits",
]
