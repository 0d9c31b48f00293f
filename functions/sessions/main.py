"""/v1/sessions: the Kubernetes API of a cluster for people, through the connections that its agent opens.

Below /internal it is for functions of the control plane, which run work there.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.responses import Response

from llmariner.audit import log
from llmariner.audit.request_context import client_address
from llmariner.clusters.clusters import Clusters
from llmariner.clusters.registration_keys import RegisteredAgent, RegistrationKeys
from llmariner.context import Context
from llmariner.errors import InvalidRequest, NotFound, PlatformError
from llmariner.gateway.authentication.key_cache import bearer_token
from llmariner.gateway.engine_tunnel import ENGINE_AUDIENCE
from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.service_calls import verify_service_token
from llmariner.http.engine_responses import EngineResponse, engine_fields
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.machine_pods import MachineApi
from llmariner.http.protocol_upgrades import offered_protocol
from llmariner.http.tunneled_responses import (
    HeldResponse,
    OpenStream,
    TunneledResponse,
    UpgradedResponse,
    WebsocketResponse,
)
from llmariner.platform.tunnel import Stream
from llmariner.platform.tunnel.engine_paths import EnginePath
from llmariner.sessions.access import CONNECT_SCOPE, READ_SCOPE, authorize, namespaces_of
from llmariner.sessions.access_checks import AccessChecks
from llmariner.sessions.control_plane import CONTROL_PLANE_AUDIENCE, MAX_BODY_BYTES, METHODS, identity_fields, target_of
from llmariner.sessions.installation import PEER_AUDIENCE, build_tunnels
from llmariner.sessions.kubernetes_errors import status_body, status_content
from llmariner.sessions.kubernetes_requests import KubernetesRequest, parse_request
from llmariner.sessions.missing_roles import missing_roles
from llmariner.sessions.open_requests import OpenRequests
from llmariner.sessions.passed_fields import passed_fields
from llmariner.sessions.tunnels import Tunnels
from llmariner.tenancy.long_requests import check_still_allowed
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope(READ_SCOPE)]
Member = Annotated[Caller, require_scope(CONNECT_SCOPE)]
_SESSION = "/v1/sessions/{cluster_id}"
_OWN = "/internal/sessions/{cluster_id}/kubernetes"
_ENGINES = "/internal/sessions/{cluster_id}/engines"
# Bodies of requests for engines that wait for the first byte of a response: of all clusters, and of one.
_ENGINE_BODY_BYTES, _ENGINE_BODY_BYTES_PER_CLUSTER = 256 * 1024 * 1024, 96 * 1024 * 1024
# An admission webhook of the cluster may take 30 s for a change. What reads says within seconds whether the cluster is away.
_READ_SECONDS, _CHANGE_SECONDS = 10.0, 32.0


def build(context: Context) -> Application:
    """The application with its routes."""
    streamed = re.compile(r"/v1/sessions/.+|/internal/sessions/[^/]+/engines/.+")
    app = create_app("sessions", context, streamed_bodies=streamed, body_limit=MAX_BODY_BYTES)
    app.state.tunnels = build_tunnels(context)
    app.state.open_requests = OpenRequests()
    app.state.engine_bodies = BodyBudget(_ENGINE_BODY_BYTES, _ENGINE_BODY_BYTES_PER_CLUSTER)
    app.state.access_checks = AccessChecks()
    app.state.machine = MachineApi(context)
    app.get("/v1/sessions/agent")(connect_agent)
    app.get("/v1/sessions/peers")(connect_peer)
    for root in ("api", "apis"):
        for path in (f"{_SESSION}/{root}", f"{_SESSION}/{root}/{{path:path}}"):
            app.get(path)(call_kubernetes)
    app.post(f"{_SESSION}/api/{{path:path}}")(open_connection)
    app.add_api_route(f"{_ENGINES}/{{path:path}}", call_engine, methods=["GET", "POST"])
    for method in METHODS:
        app.api_route(f"{_OWN}/{{path:path}}", methods=[method])(call_as_control_plane)
    return app


def _agent(request: Request) -> RegisteredAgent:
    """The cluster whose agent calls. Raises AuthenticationFailed, or RateLimited after many wrong keys of an address."""
    authorization = request.headers.get("authorization")
    key = bearer_token(authorization.encode("latin-1") if authorization else None)
    context = context_of(request)
    return context.secret_lookups.look_up(
        key,
        lambda: RegistrationKeys(context.database, context.secrets.pepper).authenticate(key),
        client_address.get(),
        untrusted_proxy=bool(request.state.untrusted_proxy),
    )


def _peer(request: Request) -> str:
    """The replica that calls. Raises AuthenticationFailed."""
    return verify_service_token(request, context_of(request).secrets.service, audience=PEER_AUDIENCE)


async def _function(request: Request) -> str:
    """The function of the control plane that calls. Raises AuthenticationFailed.

    Needs no thread: callers in this process may hold all of them while they wait for it.
    """
    return verify_service_token(request, context_of(request).secrets.service, audience=CONTROL_PLANE_AUDIENCE)


async def _engine_caller(request: Request) -> str:
    """The function that calls an engine. Raises AuthenticationFailed."""
    return verify_service_token(request, context_of(request).secrets.service, audience=ENGINE_AUDIENCE)


def _of_functions(dependency: Any) -> Any:
    """A dependency of routes that people can't call: the holder of a key or token of their own kind can."""
    dependency.scope, dependency.objects = None, "functions"
    return Depends(dependency)


async def connect_agent(request: Request, agent: Annotated[RegisteredAgent, _of_functions(_agent)]) -> Response:
    """Accept a connection of an agent, on which requests to its cluster are sent."""
    tunnels = _tunnels(request)
    fields = [
        (b"x-llmariner-replica", tunnels.replica_url.encode()),
        (b"x-llmariner-cluster", agent.cluster.id.encode()),
        (b"x-llmariner-reconnect-seconds", b"%d" % context_of(request).clusters.settings.reconnect_seconds),
    ]
    return WebsocketResponse(
        tunnels.limits, fields, lambda socket, on_shutdown: tunnels.serve_agent(agent, socket, on_shutdown)
    )


async def connect_peer(request: Request, _: Annotated[str, _of_functions(_peer)]) -> Response:
    """Accept a connection of another replica, on which it sends requests to the clusters that are connected here."""
    tunnels = _tunnels(request)
    return WebsocketResponse(tunnels.limits, [], lambda socket, _on_shutdown: tunnels.serve_peer(socket))


def call_kubernetes(request: Request, caller: Reader, cluster_id: str) -> Response:
    """Pass a request of Kubernetes' API on to a cluster, as the caller and with the caller's rights there."""
    return _pass_on(request, caller, cluster_id)


def open_connection(request: Request, caller: Member, cluster_id: str) -> Response:
    """Exec, attach or forward ports, as clients of SPDY ask for it."""
    return _pass_on(request, caller, cluster_id)


async def call_engine(
    request: Request, _: Annotated[str, _of_functions(_engine_caller)], cluster_id: str, path: str
) -> Response:
    """Pass a request of the platform's own on to an engine: `path` is namespace, pod, and the engine's path."""
    parsed = EnginePath.parse(f"/engines/{path}".encode())
    if parsed is None or request.scope["query_string"]:
        raise NotFound("This is no path of an engine.", code="engine_not_found")
    fields = engine_fields(request.method, parsed, request.scope["headers"])
    open_stream = _opener(_tunnels(request), cluster_id)
    return EngineResponse(open_stream, fields, request.app.state.engine_bodies, cluster_id)


async def call_as_control_plane(
    request: Request, function: Annotated[str, _of_functions(_function)], cluster_id: str
) -> Response:
    """Pass a request of the control plane on to a cluster, with the rights that its administrator gave."""
    try:
        target = target_of(request.scope["raw_path"], request.scope["query_string"])
        protocol = offered_protocol(request.scope["headers"])
        fields = [*_head_fields(request, target, protocol), *identity_fields(function)]
    except PlatformError as error:
        return Response(status_body(error), error.status, error.headers, "application/json")
    open_stream = _opener(_tunnels(request), cluster_id)
    if protocol:
        return UpgradedResponse(open_stream, fields, protocol)
    if request.method == "GET":
        return TunneledResponse(open_stream, fields, head_seconds=_READ_SECONDS)
    body = await request.body()
    return TunneledResponse(open_stream, [*fields, (b"content-length", b"%d" % len(body))], body, _CHANGE_SECONDS)


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
        fields = [*_head_fields(request, parsed.target, protocol), *identity.headers()]
    except PlatformError as error:
        content_type, body = status_content(error, request.scope["headers"])
        return Response(body, error.status, error.headers, content_type)
    open_stream = _opener(_tunnels(request), cluster_id)

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


def _tunnels(request: Request) -> Tunnels:
    tunnels = request.app.state.tunnels
    assert isinstance(tunnels, Tunnels)
    return tunnels


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


def _opener(tunnels: Tunnels, cluster_id: str) -> OpenStream:
    async def open_stream(fields: Sequence[tuple[bytes, bytes]], end: bool, tried: set[str]) -> Stream:
        return await tunnels.request(cluster_id, fields, end=end, tried=tried)

    return open_stream


def _head_fields(request: Request, target: bytes, protocol: str | None) -> list[tuple[bytes, bytes]]:
    """The head of the request for the cluster, without who asks."""
    method = request.method.encode()
    fields = [
        (b":method", b"CONNECT" if protocol else method),
        (b":scheme", b"https"),
        (b":authority", b"kubernetes"),
        (b":path", target),
    ]
    if protocol:
        fields += [(b":protocol", protocol.encode()), (b"llmariner-method", method)]
    return [*fields, *passed_fields(request.scope["headers"])]


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


handle = http_function(build)
