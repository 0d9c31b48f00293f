"""/v1/services/notebooks: JupyterLab of notebooks, for those who may use it."""

import re
from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from llmariner.context import Context
from llmariner.errors import Conflict, NotFound
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.authorization.notebooks import NotebookRequest, require_notebook, session_cookie
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.proxied_responses import ProxiedResponse
from llmariner.notebooks.access import SCOPE, OpenNotebook
from llmariner.platform.notebooks import BASE_PATH, base_url_of
from llmariner.tenancy.principal import Caller

Opened = Annotated[NotebookRequest, require_notebook()]
User = Annotated[Caller, require_scope(SCOPE)]
_ALIAS = "/v1/sessions/{cluster_id}/v1/services/notebooks"
"""LLMariner's path, below which stand the notebook's id, its namespace, a port or none, and the server's own path."""
_BELOW = re.compile(rb"/[^/]+(?:/([0-9]{1,5})(?=/|$))?(/.*)?")
_NUMBER = re.compile(r"[0-9]{1,5}")
# Programs of a notebook, by the path at which JupyterLab passes requests on to them.
_PORT = re.compile(r"proxy/(?:absolute/)?(?:[^/:]*:)?([0-9]{1,5})(?:/|$)")


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("services_notebooks", context, streamed_bodies=re.compile(rf"(/v1/sessions/[^/]+)?{BASE_PATH}/.+"))
    path = f"{BASE_PATH}/{{id}}/{{path:path}}"
    app.get(path)(read)
    for register in (app.post, app.put, app.patch, app.delete):
        register(path)(pass_on)
    alias = f"{_ALIAS}/{{id}}/{{path:path}}"
    app.get(alias)(redirect)
    for register in (app.post, app.put, app.patch, app.delete):
        register(alias)(redirect)
    return app


def read(request: Request, opened: Opened, id: str, path: str) -> Response:
    """Pass a request or the beginning of a websocket on.

    A link in the query opens the notebook in this browser, or with `port` a program in it.
    """
    if opened.notebook is None:
        value = context_of(request).notebooks.access.redeem_link(id, request.query_params["link"])
        port = request.query_params.get("port", "")
        target = f"{BASE_PATH}/{id}/" + (f"proxy/{port}/" if _NUMBER.fullmatch(port) else path)
        fields = {"location": target, "set-cookie": session_cookie(request, id, value), "cache-control": "no-store"}
        return Response(status_code=303, headers={**fields, "referrer-policy": "no-referrer"})
    return _proxied(request, opened, opened.notebook, path)


def pass_on(request: Request, opened: Opened, id: str, path: str) -> Response:
    """Pass a request on."""
    if opened.notebook is None:
        raise NotFound(f"Open the notebook '{id[:64]}' with GET.", code="not_found")
    return _proxied(request, opened, opened.notebook, path)


def redirect(request: Request, caller: User, cluster_id: str, id: str, path: str) -> Response:
    """Send a client of LLMariner's path to the notebook's own, which its pages name. Method and body stay."""
    context_of(request).notebooks.store.get(caller.key_owner.project_id, id)
    below = request.scope["raw_path"].partition(f"/services/notebooks/{id}".encode())[2]
    found = _BELOW.fullmatch(below)
    if found is None:
        raise NotFound(
            f"After the notebook's id stands its namespace: {_ALIAS}/{id[:64]}/default/lab.", code="not_found"
        )
    port, rest = found[1], (found[2] or b"/")[1:]
    target = base_url_of(id).encode() + (b"proxy/%b/" % port if port else b"") + rest
    query = request.scope["query_string"]
    location = target + (b"?" + query if query else b"")
    return Response(status_code=307, headers={"location": location.decode("latin-1"), "cache-control": "no-store"})


def _proxied(request: Request, opened: NotebookRequest, notebook: OpenNotebook, path: str) -> Response:
    servers = context_of(request).notebooks.required_servers()
    if not notebook.token:
        raise Conflict(
            f"The notebook does not run: its status is {notebook.status}. {notebook.error}".rstrip()
            + f" Start it with POST /v1/workspaces/notebooks/{notebook.id}/actions:start.",
            code="notebook_not_running",
        )
    port = _PORT.match(path)
    if port is not None and int(port[1]) not in notebook.ports:
        raise NotFound(
            f"The notebook exposes no port {port[1]}: name it in 'additional_exposed_ports' of a new one.",
            code="port_not_exposed",
        )
    target, query = request.scope["raw_path"], request.scope["query_string"]
    target += b"?" + query if query else b""
    return ProxiedResponse(lambda: servers.connect(notebook.id), target, notebook.token, opened.check)


handle = http_function(build)
