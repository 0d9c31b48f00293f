"""One `main.py`, three ways to run it: functions-framework, a lean server of our own (`boot`), the local home's router.

functions-framework wants a plain function as its target, so `handle` is one; the application behind it is its attribute
`app`. Nothing is built at import: the first request builds it, and with it what the route needs.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmariner.context import Context

__all__ = ["Application", "LazyApplication", "application_of", "consumer", "function"]

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
_THREADS = 4
_READY = "/health/ready"
_PROBES = ("/health/live", _READY)
Build = Callable[[Context], Application]
Consume = Callable[[Context, Any], Awaitable[None] | None]


class LazyApplication:
    """An ASGI application that is built when first called, or by `prepare`."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._context: Context | None = None
        self._application: Application | None = None

    def use(self, context: Context) -> None:
        """Share a process's parts; to be called before the first request."""
        self._context = context

    def prepare(self) -> Application:
        """Build it now, so that a wrong setting ends the start and not a request."""
        if self._application is None:
            self._application = self._build(self._context or Context())
        return self._application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        await self.prepare()(scope, receive, send)


def function(build: Build) -> Callable[[Any], Awaitable[Any]]:
    """The target of an HTTP function, from what builds its application."""
    lazy = LazyApplication(build)

    async def handle(_request: Any) -> Any:
        return _delegate(lazy)

    handle.app = lazy  # type: ignore[attr-defined]
    # Imported only where functions-framework runs us: it costs more than a whole lean start.
    if "functions_framework" in sys.modules:
        from functions_framework import aio

        aio.http(handle)
    return handle


def consumer(consume: Consume) -> Callable[[Any], Awaitable[None]]:
    """The target of an event function: `consume` is called with the context and an `Event`.

    A plain function is called in a thread of the consumer's own, for it may take minutes: at most `_THREADS` of its events
    are worked on at once, and nobody else waits for them. A coroutine function, for those that ask the serving port, runs
    in the loop.

    It raises PlatformError or anything else to be called again later, MalformedEvent when a retry would not help.
    """
    # Imported only by who consumes events: a thread pool is no part of a lean start.
    from concurrent.futures import ThreadPoolExecutor

    threads = ThreadPoolExecutor(_THREADS, "consumer")

    async def give(context: Context, event: Any) -> None:
        if asyncio.iscoroutinefunction(consume):
            await consume(context, event)
        else:
            await asyncio.get_running_loop().run_in_executor(threads, consume, context, event)

    lazy = LazyApplication(lambda context: _event_application(context, give))

    async def handle(event: Any) -> None:
        from starlette.exceptions import HTTPException

        from llmariner.platform.events.wire import MalformedEvent, of_cloud_event

        context = lazy._context or Context()
        lazy.use(context)
        try:
            await give(context, of_cloud_event(event))
        except MalformedEvent as error:
            raise HTTPException(400, str(error)) from error  # anything else is a 500: again later
        # functions-framework would answer "OK", and Knative's Broker takes a body that is no event for a failure.
        raise HTTPException(204)

    handle.app = lazy  # type: ignore[attr-defined]
    if "functions_framework" in sys.modules:
        from functions_framework import aio

        aio.cloud_event(handle)
    return handle


def application_of(handle: Any) -> LazyApplication:
    """The application behind a target made here."""
    application = handle.app
    assert isinstance(application, LazyApplication)
    return application


def _delegate(application: Application) -> Any:
    from starlette.responses import Response

    class Delegate(Response):
        """A response that lets the application answer: functions-framework calls it with the request's own channels."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await application(scope, receive, send)

    return Delegate()


def _event_application(context: Context, give: Callable[[Context, Any], Awaitable[None]]) -> Application:
    """The HTTP binding of a consumer: 204 took it, 400 never will (dead letter), 500 again later."""
    import logging

    from llmariner.errors import PlatformError
    from llmariner.http.readiness import Readiness
    from llmariner.platform.events.wire import MalformedEvent, from_http

    context.check_settings()
    readiness = Readiness(context)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET" and scope["path"] in _PROBES:
            status, answer = 200, b"OK"
            if scope["path"] == _READY:
                try:
                    await asyncio.to_thread(readiness.check)
                except PlatformError as error:
                    status, answer = error.status, error.message.encode()
            await _answer(send, status, answer)
            return
        parts = []
        message: Message = {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            await give(context, from_http(headers, b"".join(parts)))
            status, answer = 204, b""
        except MalformedEvent as error:
            status, answer = 400, str(error).encode()
        except Exception as error:  # whatever it was, the event must not be lost
            logging.getLogger(__name__).exception("a consumer failed")
            status, answer = 500, f"{type(error).__name__}: {error}".encode()
        await _answer(send, status, answer)

    if not context.env.get("LLMARINER_BROKER_URL"):
        return application
    from llmariner.http.publishing import Publishing

    return Publishing(application, lambda: context.publisher)


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})
