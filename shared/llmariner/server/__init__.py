"""An ASGI server as lean as the token path needs: HTTP/1.1 on asyncio and httptools, nothing else.

uvicorn does the same with more around it, at twice the CPU per request and per start. What is kept: streaming both ways
with back-pressure, keep-alive, pipelined requests in order, `Expect: 100-continue`, bounds in bytes and time on all that
a caller may do, a graceful end. What is left out: websockets, lifespan, TLS, HTTP/2 (the Gateway before us speaks those).

Two extensions in `scope["extensions"]`, for the token path. `llmariner.on_disconnect` takes a callback for the caller's
hang-up, which costs less than a task that waits for `http.disconnect`. `llmariner.write` writes a part of a body at once;
it returns None, or a future to wait for before more is written.
"""

from llmariner.server.limits import ServerLimits
from llmariner.server.request_cycle import Application
from llmariner.server.server import Server

__all__ = ["Application", "Server", "ServerLimits"]
