"""/v1/events: what happened, to whom it was delivered, and sending dead letters again."""

from typing import Annotated, Any, Literal

from fastapi import Request

from llmariner.context import Context
from llmariner.http.app import api
from llmariner.http.authentication import context_of, requires
from llmariner.http.function import Application, function
from llmariner.http.lists import Limit
from llmariner.platform.events.deliveries import Delivery
from llmariner.tenancy.caller import Caller

Reader = Annotated[Caller, requires("api.events.read")]
Writer = Annotated[Caller, requires("api.events.write")]


def build(context: Context) -> Application:
    """The routes."""
    app = api("events", context)
    app.get("/v1/events")(list_events)
    app.post("/v1/events/{event_id}:replay")(replay_event)
    return app


def list_events(
    request: Request,
    key: Reader,
    state: Literal["pending", "delivered", "dead"] | None = None,
    after: str | None = None,
    limit: Limit = 20,
) -> dict[str, Any]:
    """Deliveries, newest first; `after` is the `cursor` of the last one seen."""
    asked: dict[str, Any] = {"organization_id": _owned(key), "after": after or None, "limit": limit + 1}
    found = context_of(request).deliveries.page(key.owner.project_id, state, **asked)
    page = found[:limit]
    return {"object": "list", "data": [_rendered(delivery) for delivery in page], "has_more": len(found) > limit}


def replay_event(request: Request, key: Writer, event_id: str) -> dict[str, Any]:
    """Deliver a dead letter again."""
    deliveries = context_of(request).deliveries
    replayed = deliveries.replay(key.owner.project_id, event_id, organization_id=_owned(key))
    return {"id": event_id, "object": "event", "replayed": replayed}


def _owned(key: Caller) -> str | None:
    """The organisation whose own events the caller sees: of people, invitations, admin keys."""
    return key.organization_id if key.is_owner else None


def _rendered(delivery: Delivery) -> dict[str, Any]:
    event = delivery.event
    return {
        "id": event.id,
        "object": "event",
        "cursor": delivery.cursor,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "data": event.data,
        "consumer": delivery.consumer,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "last_error": delivery.last_error,
    }


handle = function(build)
