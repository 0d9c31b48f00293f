"""/v1/services/notebooks: JupyterLab of notebooks, for those who may use it."""

import re
from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from llmariner.context import Context
from llmariner.errors import Conflict, NotFound
from llmariner.http.authorization.authentication import context_of
from llmariner.http.authorization.notebooks import NotebookRequest, require_notebook, session_cookie
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.proxied_responses import ProxiedResponse
from llmariner.notebooks.access import OpenNotebook
from llmariner.platform.notebooks import BASE_PATH

Opened = Annotated[NotebookRequest, require_notebook()]
_NUMBER = re.compile(r"[0-9]{1,5}")
# Programs of a notebook, by the path at which JupyterLab passes requests on to them.
_PORT = re.compile(r"proxy/(?:absolute/)?(?:[^/:]*:)?([0-9]{1,5})(?:/|$)")


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("services_notebooks", context, streamed_bodies=re.compile(rf"{BASE_PATH}/.+"))
    path = f"{BASE_PATH}/{{id}}/{{path:path}}"
    app.get(path)(read)
    for register in (app.post, app.put, app.patch, app.delete):
        register(path)(pass_on)
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
