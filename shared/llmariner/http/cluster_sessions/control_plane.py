"""Requests of functions of the control plane: for the API servers of clusters, and for engines that run there."""

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from llmariner.errors import NotFound, PlatformError
from llmariner.gateway.engine_tunnel import ENGINE_AUDIENCE
from llmariner.gateway.requests.body_budget import BodyBudget
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.service_calls import verify_service_token
from llmariner.http.cluster_sessions.requests import head_fields, of_functions, stream_opener, tunnels_of
from llmariner.http.engine_responses import EngineResponse, engine_fields
from llmariner.http.protocol_upgrades import offered_protocol
from llmariner.http.tunneled_responses import TunneledResponse, UpgradedResponse
from llmariner.platform.tunnel.engine_paths import EnginePath
from llmariner.sessions.control_plane import CONTROL_PLANE_AUDIENCE, identity_fields, target_of
from llmariner.sessions.kubernetes_errors import status_body

__all__ = ["call_as_control_plane", "call_engine", "engine_body_budget"]

# Bodies of requests for engines that wait for the first byte of a response: of all clusters, and of one.
_ENGINE_BODY_BYTES, _ENGINE_BODY_BYTES_PER_CLUSTER = 256 * 1024 * 1024, 96 * 1024 * 1024
# An admission webhook of the cluster may take 30 s for a change. What reads says within seconds whether the cluster is away.
_READ_SECONDS, _CHANGE_SECONDS = 10.0, 32.0


def engine_body_budget() -> BodyBudget:
    """The room for bodies of requests for engines, in one process."""
    return BodyBudget(_ENGINE_BODY_BYTES, _ENGINE_BODY_BYTES_PER_CLUSTER)


async def _function(request: Request) -> str:
    """The function of the control plane that calls. Raises AuthenticationFailed.

    Needs no thread: callers in this process may hold all of them while they wait for it.
    """
    return verify_service_token(request, context_of(request).secrets.service, audience=CONTROL_PLANE_AUDIENCE)


async def _engine_caller(request: Request) -> str:
    """The function that calls an engine. Raises AuthenticationFailed."""
    return verify_service_token(request, context_of(request).secrets.service, audience=ENGINE_AUDIENCE)


async def call_engine(
    request: Request, _: Annotated[str, of_functions(_engine_caller)], cluster_id: str, path: str
) -> Response:
    """Pass a request of the platform's own on to an engine: `path` is namespace, pod, and the engine's path."""
    parsed = EnginePath.parse(f"/engines/{path}".encode())
    if parsed is None or request.scope["query_string"]:
        raise NotFound("This is no path of an engine.", code="engine_not_found")
    fields = engine_fields(request.method, parsed, request.scope["headers"])
    open_stream = stream_opener(tunnels_of(request), cluster_id)
    return EngineResponse(open_stream, fields, request.app.state.engine_bodies, cluster_id)


async def call_as_control_plane(
    request: Request, function: Annotated[str, of_functions(_function)], cluster_id: str
) -> Response:
    """Pass a request of the control plane on to a cluster, with the rights that its administrator gave."""
    try:
        target = target_of(request.scope["raw_path"], request.scope["query_string"])
        protocol = offered_protocol(request.scope["headers"])
        fields = [*head_fields(request, target, protocol), *identity_fields(function)]
    except PlatformError as error:
        return Response(status_body(error), error.status, error.headers, "application/json")
    open_stream = stream_opener(tunnels_of(request), cluster_id)
    if protocol:
        return UpgradedResponse(open_stream, fields, protocol)
    if request.method == "GET":
        return TunneledResponse(open_stream, fields, head_seconds=_READ_SECONDS)
    body = await request.body()
    return TunneledResponse(open_stream, [*fields, (b"content-length", b"%d" % len(body))], body, _CHANGE_SECONDS)
