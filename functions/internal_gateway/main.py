"""/internal/gateway: the control plane over HTTP, for functions on the token path. Cluster-local; calls are signed."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import PlainTextResponse

from llmariner.context import Context
from llmariner.control_plane import InProcessControlPlane
from llmariner.errors import AuthenticationFailed, InvalidRequest, ModelNotFound, PermissionDenied, UnknownUrl
from llmariner.gateway.control_plane.http_client import AUDIENCE
from llmariner.gateway.control_plane.port import Key
from llmariner.gateway.control_plane.serialization import (
    changes_to_wire,
    key_to_wire,
    lease_request_from_wire,
    lease_response_to_wire,
    model_to_wire,
)
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.service_calls import verify_service_token
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.metrics import backlog_metrics
from llmariner.platform.events.publish_queue import PublishQueue

FieldType = TypeVar("FieldType")
Operation = Callable[[Context, dict[str, Any]], Awaitable[dict[str, Any]]]


def build(context: Context) -> Application:
    """The application: one path per operation, and /metrics, unauthenticated as on the token path."""
    app = create_app("internal_gateway", context)
    app.get("/metrics", response_class=PlainTextResponse)(metrics)
    app.post("/internal/gateway/{operation}")(call)
    return app


def metrics(request: Request) -> PlainTextResponse:
    """Metrics of unpublished events in Prometheus' text format."""
    backlog = PublishQueue(context_of(request).database).backlog()
    return PlainTextResponse(backlog_metrics(backlog), media_type="text/plain; version=0.0.4")


async def call(request: Request, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    """Perform one operation of the control plane or of the serving port."""
    context = context_of(request)
    verify_service_token(request, context.secrets.service, audience=AUDIENCE)
    if operation not in _OPERATIONS:
        raise UnknownUrl("POST", request.url.path)
    return await _OPERATIONS[operation](context, body)


def _field(body: dict[str, Any], name: str, kind: type[FieldType]) -> FieldType:
    value = body.get(name)
    if not isinstance(value, kind):
        raise InvalidRequest(f"'{name}' must be of type {kind.__name__}.", param=name)
    return value


def _control_plane(context: Context) -> InProcessControlPlane:
    return context.in_process_control_plane


async def _authenticate_key(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    return await _key_or_rejection(
        _control_plane(context).authenticate_key(_field(body, "digest", str), *_tenant_headers(body))
    )


async def _authenticate_user(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    return await _key_or_rejection(
        _control_plane(context).authenticate_user(
            _field(body, "token", str), *_tenant_headers(body), body.get("source")
        )
    )


def _tenant_headers(body: dict[str, Any]) -> tuple[str | None, str | None]:
    return body.get("organization"), body.get("project")


async def _key_or_rejection(lookup: Awaitable[Key | None]) -> dict[str, Any]:
    """The key, or why the caller is rejected. A rejection is a result: an error status means that the lookup failed."""
    try:
        key = await lookup
    except (AuthenticationFailed, PermissionDenied) as error:
        refused = {"status": error.status, "message": error.message, "param": error.param, "code": error.code}
        return {"key": None, "refused": refused}
    return {"key": key_to_wire(key) if key else None}


async def _find_model_state(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    state = await _control_plane(context).find_model_state(_field(body, "model", str))
    return {"model": None if state is None else model_to_wire(state)}


async def _lease(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    try:
        lease_request = lease_request_from_wire(body)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"This is no account of a process: {error}.") from error
    return lease_response_to_wire(await _control_plane(context).lease(lease_request))


async def _wake(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await context.serving.wake(_field(body, "model", str))
    return {}


async def _report_waiting(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    counts = _field(body, "counts", dict)
    if not all(isinstance(count, int) for count in counts.values()):
        raise InvalidRequest("'counts' must be whole numbers.", param="counts")
    await _control_plane(context).report_waiting(_field(body, "process", str), counts)
    return {}


async def _sleep(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await context.serving.sleep(_field(body, "model", str))
    return {}


async def _remove(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await context.serving.remove(_field(body, "model", str), _field(body, "folder", str))
    return {}


async def _import_existing(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await context.serving.import_existing(_field(body, "service", str))
    return {}


async def _reconcile(context: Context, _body: dict[str, Any]) -> dict[str, Any]:
    await context.serving.reconcile()
    return {}


async def _status(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    try:
        model_id = _field(body, "model", str)
        status = await context.serving.status(model_id)
        return {"status": context.waiting_requests.add_to(model_id, status).to_json()}
    except ModelNotFound:
        return {"status": None}


async def _statuses(context: Context, _body: dict[str, Any]) -> dict[str, Any]:
    statuses = context.waiting_requests.add_to_all(await context.serving.statuses())
    return {"statuses": {name: status.to_json() for name, status in statuses.items()}}


async def _changes_since(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    rules = body.get("rules", 0)  # absent from gateway instances of the previous release
    if not isinstance(rules, int):
        raise InvalidRequest("'rules' must be of type int.", param="rules")
    return changes_to_wire(await _control_plane(context).changes_since(_field(body, "cursor", str), rules))


async def _record_usage(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await context.batch_writer.record(_field(body, "events", list))
    return {}


async def _record_last_used(context: Context, body: dict[str, Any]) -> dict[str, Any]:
    await _control_plane(context).record_last_used(_field(body, "last_used", dict))
    return {}


# Gateway instances of the previous release call these names.
_OPERATIONS: dict[str, Operation] = {
    "key": _authenticate_key,
    "person": _authenticate_user,
    "model": _find_model_state,
    "wake": _wake,
    "waiting": _report_waiting,
    "sleep": _sleep,
    "remove": _remove,
    "adopt": _import_existing,
    "tidy": _reconcile,
    "status": _status,
    "statuses": _statuses,
    "changes": _changes_since,
    "lease": _lease,
    "record": _record_usage,
    "used": _record_last_used,
}

handle = http_function(build)
