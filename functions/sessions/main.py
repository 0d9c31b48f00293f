"""/v1/sessions: the Kubernetes API of a cluster for people, through the connections that its agent opens.

Below /internal it is for functions of the control plane, which run work there.
"""

import re

from llmariner.context import Context
from llmariner.http.cluster_sessions.agents import connect_agent, connect_peer
from llmariner.http.cluster_sessions.control_plane import call_as_control_plane, call_engine, engine_body_budget
from llmariner.http.cluster_sessions.people import call_kubernetes, open_connection
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.machine_pods import MachineApi
from llmariner.sessions.access_checks import AccessChecks
from llmariner.sessions.control_plane import MAX_BODY_BYTES, METHODS
from llmariner.sessions.installation import build_tunnels
from llmariner.sessions.open_requests import OpenRequests

_SESSION = "/v1/sessions/{cluster_id}"
_OWN = "/internal/sessions/{cluster_id}/kubernetes"
_ENGINES = "/internal/sessions/{cluster_id}/engines"


def build(context: Context) -> Application:
    """The application with its routes."""
    streamed = re.compile(r"/v1/sessions/.+|/internal/sessions/[^/]+/engines/.+")
    app = create_app("sessions", context, streamed_bodies=streamed, body_limit=MAX_BODY_BYTES)
    app.state.tunnels = build_tunnels(context)
    app.state.open_requests = OpenRequests()
    app.state.engine_bodies = engine_body_budget()
    app.state.access_checks = AccessChecks()
    app.state.machine = MachineApi(context)
    app.get("/v1/sessions/agent")(connect_agent)
    app.get("/v1/sessions/peers")(connect_peer)
    app.get(f"{_SESSION}/version")(call_kubernetes)
    for root in ("api", "apis"):
        for path in (f"{_SESSION}/{root}", f"{_SESSION}/{root}/{{path:path}}"):
            app.get(path)(call_kubernetes)
    app.post(f"{_SESSION}/api/{{path:path}}")(open_connection)
    app.add_api_route(f"{_ENGINES}/{{path:path}}", call_engine, methods=["GET", "POST"])
    for method in METHODS:
        app.api_route(f"{_OWN}/{{path:path}}", methods=[method])(call_as_control_plane)
    return app


handle = http_function(build)
