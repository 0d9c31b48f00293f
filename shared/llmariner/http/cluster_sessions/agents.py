"""Connections that agents of clusters and other replicas of the function `sessions` open."""

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from llmariner.audit.request_context import client_address
from llmariner.clusters.registration_keys import RegisteredAgent, RegistrationKeys
from llmariner.gateway.authentication.key_cache import bearer_token
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.service_calls import verify_service_token
from llmariner.http.cluster_sessions.requests import of_functions, tunnels_of
from llmariner.http.tunneled_responses import WebsocketResponse
from llmariner.sessions.installation import PEER_AUDIENCE

__all__ = ["connect_agent", "connect_peer"]


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


async def connect_agent(request: Request, agent: Annotated[RegisteredAgent, of_functions(_agent)]) -> Response:
    """Accept a connection of an agent, on which requests to its cluster are sent."""
    tunnels = tunnels_of(request)
    fields = [
        (b"x-llmariner-replica", tunnels.replica_url.encode()),
        (b"x-llmariner-cluster", agent.cluster.id.encode()),
        (b"x-llmariner-reconnect-seconds", b"%d" % context_of(request).clusters.settings.reconnect_seconds),
    ]
    return WebsocketResponse(
        tunnels.limits, fields, lambda socket, on_shutdown: tunnels.serve_agent(agent, socket, on_shutdown)
    )


async def connect_peer(request: Request, _: Annotated[str, of_functions(_peer)]) -> Response:
    """Accept a connection of another replica, on which it sends requests to the clusters that are connected here."""
    tunnels = tunnels_of(request)
    return WebsocketResponse(tunnels.limits, [], lambda socket, _on_shutdown: tunnels.serve_peer(socket))
