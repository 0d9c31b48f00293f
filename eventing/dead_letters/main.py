"""Stores events that a Broker could not deliver, for `llma events list --state dead` and `llma events replay`."""

import asyncio
import base64
import binascii
from typing import Annotated

from fastapi import Path, Request

from llmariner.context import Context
from llmariner.errors import InvalidRequest
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.platform.events.cloudevents import MalformedEvent, from_http

Consumer = Annotated[str, Path(pattern="^[a-z][a-z0-9_]{0,63}$")]


def build(context: Context) -> Application:
    """The application: a Trigger's dead letter sink has its consumer's name in the path."""
    app = create_app("dead_letters", context)
    app.post("/{consumer}")(record_dead_letter)
    return app


async def record_dead_letter(request: Request, consumer: Consumer) -> dict[str, str]:
    """Store an event as this consumer's dead letter. Idempotent."""
    try:
        event = from_http(request.headers, await request.body())
    except MalformedEvent as error:
        raise InvalidRequest(str(error)) from error
    await asyncio.to_thread(context_of(request).deliveries.record_dead_letter, event, consumer, _reason(request))
    return {"id": event.id, "object": "event", "consumer": consumer, "state": "dead"}


def _reason(request: Request) -> str:
    """The consumer's response from Knative's error attributes; Knative truncates its text after 1,024 bytes."""
    code = request.headers.get("ce-knativeerrorcode", "")
    try:
        text = base64.b64decode(request.headers.get("ce-knativeerrordata", "")).decode(errors="replace")
    except binascii.Error:
        text = ""
    return ": ".join(part for part in (code, text) if part) or "The consumer did not take it."


handle = http_function(build)
