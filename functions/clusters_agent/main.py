"""/v1/clusters/agent: what the agents of clusters report, each with the registration key of its cluster."""

from typing import Annotated, Any

from fastapi import Depends, Request

from llmariner.audit.request_context import client_address
from llmariner.clusters.registration_keys import RegisteredAgent
from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.clusters import AgentHeartbeat

_BODY_BYTES = 2 * 1024 * 1024
"""An inventory with as many nodes and pods as it may list."""


def authenticate_agent(request: Request) -> RegisteredAgent:
    """The agent that asks. Raises AuthenticationFailed, and RateLimited after too many wrong keys of an address."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key, context = key.strip() if scheme.lower() == "bearer" else "", context_of(request)
    return context.secret_lookups.look_up(
        key,
        lambda: context.clusters.registration_keys.authenticate(key),
        client_address.get(),
        untrusted_proxy=bool(request.state.untrusted_proxy),
    )


Agent = Annotated[RegisteredAgent, Depends(authenticate_agent)]


def build(context: Context) -> Application:
    """The application with its route."""
    app = create_app("clusters_agent", context, body_limit=_BODY_BYTES)
    app.post("/v1/clusters/agent/heartbeats")(record_heartbeat)
    return app


def record_heartbeat(request: Request, agent: Agent, body: AgentHeartbeat) -> dict[str, Any]:
    """Record what a cluster's agent reports; returns when it is to report again, and what it is to do."""
    return context_of(request).clusters.heartbeats.record(agent, body.to_heartbeat())


handle = http_function(build)
