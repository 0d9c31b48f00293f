"""A minimal HTTP/1.1 client for the token path: asyncio and httptools, with a pool of idle connections per origin.

A response is read chunk by chunk, with back-pressure: past a high-water mark the socket is not read, so memory use does not
depend on the length of a stream. Closing a response before its end closes the connection; that is how a client's disconnect
reaches an engine.

Servers are not trusted: heads, chunk extensions and trailers are bounded, reads time out, and bytes after the end of a
response close the connection.
"""

from llmariner.http_client.client import Client
from llmariner.http_client.response import (
    ConnectionFailed,
    Headers,
    ReaderTimeout,
    Response,
    ResponseFailed,
    ResponseTimeout,
    ResponseTooLarge,
    Tunnel,
)

__all__ = [
    "Client",
    "ConnectionFailed",
    "Headers",
    "ReaderTimeout",
    "Response",
    "ResponseFailed",
    "ResponseTimeout",
    "ResponseTooLarge",
    "Tunnel",
]
