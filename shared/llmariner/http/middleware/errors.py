"""Error responses in OpenAI's shape, the body limit, and the headers of every response."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from llmariner.errors import (
    BodyTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    PlatformError,
    Unavailable,
    UnknownUrl,
    UnsupportedMedia,
)
from llmariner.http.schemas.bodies import UNKNOWN_PARAMETER

__all__ = ["BodyLimitMiddleware", "ResponseHeadersMiddleware", "error_response", "install_error_handling"]

_log = logging.getLogger(__name__)
_FREE_BYTES = 16 * 1024
_BUFFER_LIMIT = 64 * 1024 * 1024


def install_error_handling(app: FastAPI, *, body_limit: int, streamed: re.Pattern[str] | None = None) -> None:
    """Add the exception handlers and middleware. A body over `body_limit` bytes is answered with BodyTooLarge.

    `streamed`: the paths whose handlers read bodies as they arrive and limit them.
    """
    app.add_exception_handler(PlatformError, lambda _, error: error_response(_from_platform_error(error)))
    app.add_exception_handler(
        RequestValidationError, lambda request, error: error_response(_from_validation_error(request, error))
    )
    app.add_exception_handler(
        HTTPException, lambda request, error: error_response(_from_http_exception(request, error))
    )
    app.add_middleware(BodyLimitMiddleware, max_bytes=body_limit, streamed=streamed)
    app.add_middleware(ResponseHeadersMiddleware)


def error_response(error: PlatformError) -> JSONResponse:
    """The response for an error."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


def _from_platform_error(error: Exception) -> PlatformError:
    assert isinstance(error, PlatformError)
    return error


def _from_validation_error(request: Request, error: Exception) -> PlatformError:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {first['ctx']['error']}.", code="invalid_json")
    if first["type"] == UNKNOWN_PARAMETER:
        return _unknown_field(first)
    param = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "missing":
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    if first["loc"] == ("body",):
        if request.headers.get("content-type", "").lower().startswith("application/json"):
            return InvalidRequest("The body must be a JSON object.", code="invalid_json")
        return UnsupportedMedia("Send the body as a JSON object, with the header 'content-type: application/json'.")
    return InvalidRequest(f"Invalid '{param}': {first['msg']}.", param=param, code="invalid_value")


def _unknown_field(error: dict[str, Any]) -> PlatformError:
    """For an unknown field of a body; `loc` is the object that contains it."""
    path = [str(part) for part in error["loc"][1:]]
    param = ".".join([*path, error["ctx"]["field"]])
    nearest = error["ctx"]["nearest"]
    hint = f"did you mean '{'.'.join([*path, nearest])}'?" if nearest else "see docs/api.md for those of this route."
    return InvalidRequest(f"Unknown parameter: '{param}'; {hint}", param=param, code="unknown_parameter")


def _from_http_exception(request: Request, error: Exception) -> PlatformError:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, PlatformError):  # raised while the body was parsed
        return error.__cause__
    method, path = request.method, request.url.path
    if error.status_code == 404:
        return UnknownUrl(method, path)
    if error.status_code == 405:
        return MethodNotAllowed(method, path, _allowed_methods(request))
    if error.status_code == 413:
        return BodyTooLarge("The body is over this route's limit.")
    return InvalidRequest("The body could not be read: send a JSON object in UTF-8.", code="invalid_json")


def _allowed_methods(request: Request) -> str:
    """All methods of the path; Starlette names those of the first route that matches."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in route.methods}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


class BodyLimitMiddleware:
    """ASGI middleware that rejects a body of more than `max_bytes`. Starlette's own limit would answer in plain text.

    FastAPI reads a body before it authenticates the caller, so the total of all buffered bodies is limited too. Only bytes
    over `_FREE_BYTES` of a body count, so that slow uploads of large bodies block other large bodies only. Bodies of the
    paths `streamed` are passed on: nothing buffers them.
    """

    def __init__(self, app: Any, *, max_bytes: int, streamed: re.Pattern[str] | None = None) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._streamed = streamed
        self._buffered = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if self._streamed is not None and self._streamed.fullmatch(scope.get("path", "")):
            await self._app(scope, receive, send)
            return
        length = dict(scope.get("headers", ())).get(b"content-length", b"0")
        size = buffered = 0

        async def limited_receive() -> Any:
            nonlocal size, buffered
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._max_bytes or (length.isdigit() and int(length) > self._max_bytes):
                raise HTTPException(413)
            if size - buffered > _FREE_BYTES:
                self._buffered += size - _FREE_BYTES - buffered
                buffered = size - _FREE_BYTES
                if self._buffered > _BUFFER_LIMIT:
                    raise Unavailable("Too many large bodies are on their way here.", headers={"retry-after": "5"})
            return message

        try:
            await self._app(scope, limited_receive, send)
        finally:
            self._buffered -= buffered


class ResponseHeadersMiddleware:
    """ASGI middleware that adds x-request-id and the processing time, and turns unhandled exceptions into a generic 500.

    It is the outermost middleware: the server would answer an exception that leaves it in plain text.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at, request_id, started = time.perf_counter(), "req_" + os.urandom(12).hex(), False

        async def send_with_headers(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                elapsed_ms = int((time.perf_counter() - started_at) * 1000)
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", b"%d" % elapsed_ms),
                    (b"openai-version", b"2020-10-01"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            _log.exception("request %s failed", request_id)
            if not started:
                error = PlatformError("Something broke on our side. Try again; the request id helps to find it.")
                await error_response(error)(scope, receive, send_with_headers)
