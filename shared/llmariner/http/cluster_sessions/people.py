"""Requests of people for Kubernetes' API: of a cluster, through its agent, or of this machine."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any

from fastapi import Request
from starlette.responses import Response

from llmariner.audit import log
from llmariner.clusters.clusters import Clusters
from llmariner.context import Context
from llmariner.errors import InvalidRequest, PlatformError
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.cluster_sessions.requests import head_fields, stream_opener, tunnels_of
from llmariner.http.machine_pods import MachineApi
from llmariner.http.protocol_upgrades import offered_protocol
from llmariner.http.tunneled_responses import HeldResponse, TunneledResponse, UpgradedResponse
from llmariner.sessions.access import CONNECT_SCOPE, READ_SCOPE, authorize, namespaces_of
from llmariner.sessions.access_checks import AccessChecks
from llmariner.sessions.kubernetes_errors import status_content
from llmariner.sessions.kubernetes_requests import KubernetesRequest, parse_request
from llmariner.sessions.missing_roles import missing_roles
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

__all__ = ["call_kubernetes", "open_connection"]

Reader = Annotated[Caller, require_scope(READ_SCOPE)]
Member = Annotated[Caller, require_scope(CONNECT_SCOPE)]


def call_kubernetes(request: Request, caller: Reader, cluster_id: str) -> Response:
    """Pass a request of Kubernetes' API on to a cluster, as the caller and with the caller's rights there."""
    return _pass_on(request, caller, cluster_id)


def open_connection(request: Request, caller: Member, cluster_id: str) -> Response:
    """Exec, attach or forward ports, as clients of SPDY ask for it."""
    return _pass_on(request, caller, cluster_id)


def _pass_on(request: Request, caller: Caller, cluster_id: str) -> Response:
    try:
        parsed = parse_request(request.method, request.scope["raw_path"], request.scope["query_string"])
        protocol = _protocol(request, parsed)
        context = context_of(request)
        project_id = caller.key_owner.project_id
        Clusters(context.database, context.secrets.pepper).get(caller.organization_id, cluster_id)
        namespaces = _namespaces(request, project_id, cluster_id)
        identity = authorize(caller, parsed, namespaces)
        if parsed.resource:
            _record(context, caller, cluster_id, parsed)
        held = request.app.state.open_requests.hold(caller.user_id, caller.organization_id)
        watched = _watched(request, caller, cluster_id, parsed)
        if (machine := _machine(request)).serves(cluster_id):
            return HeldResponse(machine.respond(caller, parsed, request.scope["headers"]), held, watched)
        fields = [*head_fields(request, parsed.target, protocol), *identity.headers()]
    except PlatformError as error:
        content_type, body = status_content(error, request.scope["headers"])
        return Response(body, error.status, error.headers, content_type)
    open_stream = stream_opener(tunnels_of(request), cluster_id)

    def explain(body: bytes) -> PlatformError | None:
        return missing_roles(body, project_id, namespaces)

    passed = (
        UpgradedResponse(open_stream, fields, protocol, explain=explain)
        if protocol
        else TunneledResponse(open_stream, fields, explain=explain)
    )
    return HeldResponse(passed, held, watched)


def _watched(
    request: Request, caller: Caller, cluster_id: str, parsed: KubernetesRequest
) -> Callable[[Callable[[], object]], AbstractContextManager[None]]:
    """The context of an open request: a function is called in it once the caller may not send the request any more."""
    database, checks = context_of(request).database, request.app.state.access_checks
    assert isinstance(checks, AccessChecks)

    def check() -> None:
        check_still_allowed(database, caller, CONNECT_SCOPE if parsed.verb == "connect" else READ_SCOPE)
        authorize(caller, parsed, _namespaces(request, caller.key_owner.project_id, cluster_id))

    same = (caller, cluster_id, parsed.namespace, parsed.verb, parsed.group, parsed.resource, parsed.subresource)
    return lambda end: checks.hold(same, check, end)


def _namespaces(request: Request, project_id: str, cluster_id: str) -> frozenset[str]:
    """The namespaces of a project there. On this machine its id is one, too."""
    with context_of(request).database.read() as session:
        found = namespaces_of(session, project_id, cluster_id)
    return found | {project_id} if _machine(request).serves(cluster_id) else found


def _machine(request: Request) -> MachineApi:
    machine = request.app.state.machine
    assert isinstance(machine, MachineApi)
    return machine


def _protocol(request: Request, parsed: KubernetesRequest) -> str | None:
    """The protocol that the request changes to: for exec, attach and port-forward always one, otherwise none."""
    protocol = offered_protocol(request.scope["headers"])
    if (protocol is not None) != (parsed.verb == "connect"):
        raise InvalidRequest(
            "exec, attach and portforward change the protocol of their connection to a websocket or SPDY/3.1, and nothing "
            "else does.",
            code="invalid_upgrade",
        )
    return protocol


def _record(context: Context, caller: Caller, cluster_id: str, parsed: KubernetesRequest) -> None:
    """Write to the audit log who does what, and where."""
    payload: dict[str, Any] = {
        "id": cluster_id,
        "data": {
            "verb": parsed.verb,
            "namespace": parsed.namespace,
            "resource": "/".join(filter(None, (parsed.group, parsed.resource, parsed.subresource))),
            "name": parsed.name,
            **({"command": parsed.command} if parsed.subresource == "exec" else {}),
        },
    }
    context.database.transact(
        lambda session: log.append_entry(
            session,
            caller,
            "cluster.accessed",
            payload,
            organization_id=caller.organization_id,
            project_id=caller.project_id,
        )
    )
