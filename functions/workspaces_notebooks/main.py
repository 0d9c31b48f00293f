"""/v1/workspaces/notebooks: the notebooks of a project, in LLMariner's format."""

from typing import Annotated, Any

from fastapi import Request

from llmariner.context import Context
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.http.entrypoint import Application, http_function
from llmariner.http.fastapi_app import create_app
from llmariner.http.schemas.lists import Limit, NotebookCursor
from llmariner.http.schemas.notebooks import ChangeNotebook, CreateNotebook
from llmariner.notebooks.notebooks import Notebooks
from llmariner.notebooks.representation import notebook_object
from llmariner.platform.notebooks import base_url_of
from llmariner.tenancy.principal import Caller

Reader = Annotated[Caller, require_scope("api.workspaces.notebooks.read")]
Writer = Annotated[Caller, require_scope("api.workspaces.notebooks.write")]
_NOTEBOOKS = "/v1/workspaces/notebooks"
_NOTEBOOK = f"{_NOTEBOOKS}/{{id}}"


def build(context: Context) -> Application:
    """The application with its routes."""
    app = create_app("workspaces_notebooks", context)
    app.get(_NOTEBOOKS)(list_notebooks)
    app.post(_NOTEBOOKS)(create_notebook)
    app.get(_NOTEBOOK)(get_notebook)
    app.patch(_NOTEBOOK)(change_notebook)
    app.delete(_NOTEBOOK)(delete_notebook)
    app.post(f"{_NOTEBOOK}/actions:start")(start_notebook)
    app.post(f"{_NOTEBOOK}/actions:stop")(stop_notebook)
    app.post(f"{_NOTEBOOK}/actions:open")(open_notebook)
    return app


def list_notebooks(request: Request, caller: Reader, after: NotebookCursor = None, limit: Limit = 20) -> dict[str, Any]:
    """The project's notebooks, newest first."""
    store, project_id = _store(request), caller.key_owner.project_id
    found, more = store.page(project_id, after=after, limit=limit)
    return {
        "object": "list",
        "notebooks": [notebook_object(each, caller) for each in found],
        "has_more": more,
        "total_items": store.count(project_id),
    }


def create_notebook(request: Request, caller: Writer, body: CreateNotebook) -> dict[str, Any]:
    """Create a notebook, which starts."""
    return notebook_object(_store(request).create(caller, body.to_new()), caller)


def get_notebook(request: Request, caller: Reader, id: str) -> dict[str, Any]:
    """One notebook."""
    return notebook_object(_store(request).get(caller.key_owner.project_id, id), caller)


def change_notebook(request: Request, caller: Writer, id: str, body: ChangeNotebook) -> dict[str, Any]:
    """Share a notebook with the members of its project, or no longer."""
    if body.shared is not None:
        context_of(request).notebooks.access.set_shared(caller, id, shared=body.shared)
    return notebook_object(_store(request).get(caller.key_owner.project_id, id), caller)


def start_notebook(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Start a notebook that has stopped or failed. Another one is returned as it is."""
    return notebook_object(_store(request).start(caller, id), caller)


def stop_notebook(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Stop a notebook; its files stay. One that has stopped is returned as it is."""
    return notebook_object(_store(request).stop(caller, id), caller)


def open_notebook(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """What opens a notebook once, within a minute, in a browser that has no key: a path, and its URL where that is known."""
    notebooks = context_of(request).notebooks
    host = notebooks.hosts.url_of(id)
    path = f"{base_url_of(id)}lab?link={notebooks.access.make_link(caller, id)}"
    return {"id": id, "object": "notebook.link", "path": path, "url": None if host is None else host + path}


def delete_notebook(request: Request, caller: Writer, id: str) -> dict[str, Any]:
    """Delete a notebook with its files."""
    _store(request).delete(caller, id)
    return {}


def _store(request: Request) -> Notebooks:
    return context_of(request).notebooks.store


handle = http_function(build)
