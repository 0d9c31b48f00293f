"""Entry points of a function's `main.py`, which runs under functions-framework, `llmariner.boot` or the standalone router.

functions-framework requires a plain function as its target, so `handle` is one and carries the ASGI application in its
attribute `app`. `boot.load` defers the construction of the application until its caller prepares it. Under
functions-framework the import constructs it, so that an invalid setting fails the start and not each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from llmariner.context import Context
from llmariner.errors import PlatformError
from llmariner.gateway.responses.messages import default_headers, send_error
from llmariner.http.middleware.cors import Cors
from llmariner.http.middleware.stack import MiddlewareStack

__all__ = ["Application", "LazyApplication", "application_of", "deferred_build", "event_function", "http_function"]

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]
_THREADS = 8
_READY = "/health/ready"
_PROBES = ("/health/live", _READY)
_EVENT_LIMIT = 8 * 1024 * 1024
_log = logging.getLogger(__name__)
_deferred = False
Build = Callable[[Context], Application]
Consume = Callable[[Context, Any], Awaitable[None] | None]


class LazyApplication:
    """An ASGI application that `prepare` or the first request builds."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._context: Context | None = None
        self._application: MiddlewareStack | None = None

    def use_context(self, context: Context) -> None:
        """Build with the process's shared `context`; call it before the first request."""
        self._context = context

    def prepare(self) -> MiddlewareStack:
        """Build the application unless it is built, so that an invalid setting fails the start and not a request."""
        if self._application is None:
            context = self._context or Context()
            self._application = MiddlewareStack(self._build(context), Cors.load(context.env))
        return self._application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        await self.prepare()(scope, receive, send)


@contextlib.contextmanager
def deferred_build() -> Iterator[None]:
    """A context in which importing a `main.py` does not build its application."""
    global _deferred
    before, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = before


def http_function(build: Build) -> Callable[[Any], Awaitable[Any]]:
    """The functions-framework target of an HTTP function whose application `build` returns."""
    lazy = LazyApplication(build)

    async def handle(_request: Any) -> Any:
        return _delegating_response(lazy)

    handle.app = lazy  # type: ignore[attr-defined]
    # Imported only under functions-framework: the import takes longer than the whole start without it.
    if "functions_framework" in sys.modules and not _deferred:
        from functions_framework import aio

        lazy.prepare()
        aio.http(handle)
    return handle


def event_function(
    consume: Consume, *, from_outbox: bool = True, threads: int = _THREADS
) -> Callable[[Any], Awaitable[None]]:
    """The functions-framework target of an event consumer: `consume` takes the context and an `Event`.

    A plain function runs in one of `threads` threads of the consumer's own, since it may take minutes. A coroutine
    function runs in the event loop; consumers that call the serving port are coroutines.

    `consume` raises MalformedEvent when a retry would not help (400, dead letter); any other exception asks for a retry.

    Every pod of the cluster can reach a consumer. `consume` therefore gets the event as the outbox holds it, and an event
    that the outbox lacks is rejected. `from_outbox` False is for events of the cluster's own sources, which are not
    authenticated: their consumers must not trust the data.
    """
    # Imported here, since HTTP functions start without a thread pool.
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(threads, "consumer")

    async def deliver(context: Context, event: Any) -> None:
        if from_outbox:
            event = await asyncio.to_thread(_load_from_outbox, context, event)
        if asyncio.iscoroutinefunction(consume):
            await consume(context, event)
        else:
            await asyncio.get_running_loop().run_in_executor(pool, consume, context, event)

    lazy = LazyApplication(lambda context: _event_application(context, deliver))

    async def handle(event: Any) -> None:
        from starlette.exceptions import HTTPException

        from llmariner.platform.events.cloudevents import MalformedEvent, from_cloud_event

        context = lazy._context or Context()
        lazy.use_context(context)
        try:
            await deliver(context, from_cloud_event(event))
        except MalformedEvent as error:
            raise HTTPException(400, str(error)) from error  # any other exception becomes a 500: retried
        # functions-framework would answer "OK", and Knative's Broker takes a body that is not an event for a failure.
        raise HTTPException(204)

    handle.app = lazy  # type: ignore[attr-defined]
    if "functions_framework" in sys.modules and not _deferred:
        from functions_framework import aio

        lazy.prepare()
        aio.cloud_event(handle)
    return handle


def application_of(handle: Any) -> LazyApplication:
    """The application of a target that `http_function` or `event_function` returned."""
    application = handle.app
    assert isinstance(application, LazyApplication)
    return application


def _delegating_response(application: Application) -> Any:
    from starlette.responses import Response

    class Delegate(Response):
        """A response that delegates to the application: functions-framework calls it with the request's ASGI channels."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            started = False

            async def tracked_send(message: Message) -> None:
                nonlocal started
                started = True
                await send(message)

            try:
                await application(scope, receive, tracked_send)
            except Exception:
                # functions-framework would answer in plain text.
                if started:
                    raise
                _log.exception("a request failed")
                await send_error(send, PlatformError("Something broke on our side."), default_headers())

    return Delegate()


def _load_from_outbox(context: Context, event: Any) -> Any:
    """The event as the outbox holds it. Raises MalformedEvent for an event that the outbox lacks."""
    import logging

    from llmariner.platform.events import outbox
    from llmariner.platform.events.cloudevents import MalformedEvent

    with context.database.read() as session:
        found = outbox.find_stored(session, event)
    if found is None:
        logging.getLogger(__name__).warning("refused an event that this platform did not write: %.80r", event.id)
        raise MalformedEvent(f"No event '{event.id[:80]}' of type '{event.type[:128]}' was written by this platform.")
    return found


def _event_application(context: Context, deliver: Callable[[Context, Any], Awaitable[None]]) -> Application:
    """The HTTP binding of a consumer. Statuses: 204 consumed, 400 malformed (dead letter), 500 failed (retried)."""
    from llmariner.function_settings import check_settings
    from llmariner.http.middleware.readiness import Readiness
    from llmariner.platform.events.cloudevents import MalformedEvent, from_http

    check_settings(context.env)
    readiness = Readiness(context)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET" and scope["path"] in _PROBES:
            status, answer = 200, b"OK"
            if scope["path"] == _READY:
                try:
                    await asyncio.to_thread(readiness.check)
                except PlatformError as error:
                    status, answer = error.status, error.message.encode()
            await _send_text(send, status, answer)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = await _read_event_body(receive)
            if body is None:
                return  # the client disconnected, and a partial event is not delivered
            await deliver(context, from_http(headers, body))
            status, answer = 204, b""
        except MalformedEvent as error:
            status, answer = 400, str(error).encode(errors="replace")
        except Exception as error:  # the Broker retries after a 500, so no event is lost
            _log.exception("a consumer failed")
            status, answer = 500, f"{type(error).__name__}: {error}".encode(errors="replace")
        await _send_text(send, status, answer)

    if not context.env.get("LLMARINER_BROKER_URL"):
        return application
    from llmariner.http.middleware.outbox import OutboxMiddleware

    return OutboxMiddleware(application, lambda: context.publisher)


async def _send_text(send: Callable[[Message], Awaitable[None]], status: int, text: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


async def _read_event_body(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """The whole body of an event; None when the client disconnects. Raises MalformedEvent for a body over `_EVENT_LIMIT`."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _EVENT_LIMIT:
            from llmariner.platform.events.cloudevents import MalformedEvent

            raise MalformedEvent(f"An event has at most {_EVENT_LIMIT} bytes.")
    return bytes(body)
