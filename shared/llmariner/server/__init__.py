"""A minimal ASGI server for the token path: HTTP/1.1 on asyncio and httptools.

uvicorn costs twice the CPU per request and per start. This server supports streaming in both directions with
back-pressure, keep-alive, pipelined requests in order, `Expect: 100-continue`, limits in bytes and seconds on everything
a client does, and graceful shutdown. It has no lifespan, TLS or HTTP/2; an ingress in front provides those.

`scope["extensions"]["llmariner.response"]` is the request's `RequestCycle`: a callback for the client's disconnect, which
costs less than a task that waits for `http.disconnect`, and responses or their parts written at once, without the two
messages of ASGI. Its `upgrade` gives the connection to another protocol of the application.
"""

from llmariner.server.limits import ServerLimits
from llmariner.server.request_cycle import Application
from llmariner.server.server import Server

__all__ = ["Application", "Server", "ServerLimits"]
