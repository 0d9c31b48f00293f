"""/v1/events: events with the state of their deliveries, and the replay of dead letters."""

import re
from typing import Annotated, Any, Literal

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.organization_admins import is_installation_owner
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import Limit
from llmariner.platform.events.deliveries import Delivery
from llmariner.platform.events.publish_queue import BROKER
from llmariner.tenancy.principal import Caller

# A consumer's status for an event that it will never accept.
_EVENT_REJECTED = re.compile(r"4[0-9][0-9]\b")

Reader = Annotated[Caller, require_scope("api.events.read")]
Writer = Annotated[Caller, require_scope("api.events.write")]


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("events", context)
    app.get("/v1/events")(list_events)
    app.post("/v1/events/{event_id}:replay")(replay_event)
    return app


def list_events(
    request: Request,
    caller: Reader,
    state: Literal["pending", "delivered", "dead"] | None = None,
    after: str | None = None,
    limit: Limit = 20,
) -> dict[str, Any]:
    """Deliveries, newest first; `after` is the `cursor` of a delivery."""
    access = _owner_access(request, caller)
    query: dict[str, Any] = {**access, "after": after or None, "limit": limit + 1}
    found = context_of(request).deliveries.page(caller.key_owner.project_id, state, **query)
    data = [_serialize(delivery, operator=access.get("operator", False)) for delivery in found[:limit]]
    return {"object": "list", "data": data, "has_more": len(found) > limit}


def replay_event(request: Request, caller: Writer, event_id: str) -> dict[str, Any]:
    """Replay a dead letter."""
    deliveries = context_of(request).deliveries
    replayed = deliveries.replay(caller.key_owner.project_id, event_id, **_owner_access(request, caller))
    return {"id": event_id, "object": "event", "replayed": replayed}


def _owner_access(request: Request, caller: Caller) -> dict[str, Any]:
    """Arguments that select the events an owner sees in addition to the project's.

    These are the organization's (users, invitations, admin keys), and for an owner of the installation those of Kubernetes
    objects, which belong to no tenant.
    """
    if not caller.is_owner:
        return {}
    return {"organization_id": caller.organization_id, "operator": is_installation_owner(request, caller)}


def _reason(delivery: Delivery, *, operator: bool) -> str | None:
    """The error of a delivery. Only operators see internal errors, which may reveal details of the installation."""
    error = delivery.last_error
    if error is None or operator or (delivery.consumer != BROKER and _EVENT_REJECTED.match(error)):
        return error
    return "The platform could not deliver it. Who runs this installation sees why."


def _serialize(delivery: Delivery, *, operator: bool) -> dict[str, Any]:
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
        "last_error": _reason(delivery, operator=operator),
    }


handle = http_function(build)
