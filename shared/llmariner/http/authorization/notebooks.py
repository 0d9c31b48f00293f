"""Access to a notebook's server by a key or sign-in, or by the cookie of a browser that opened it with a link."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any

from fastapi import Depends, Request

from llmariner.errors import PermissionDenied
from llmariner.http.authorization.authentication import context_of, require_scope
from llmariner.notebooks.access import SCOPE, SESSION_SECONDS, OpenNotebook
from llmariner.platform.notebooks import base_url_of
from llmariner.tenancy.principal import Caller

__all__ = ["NotebookRequest", "require_notebook", "session_cookie"]

_COOKIE = "llmariner-notebook"


@dataclass(frozen=True)
class NotebookRequest:
    """A request that its caller may send. `check` opens the notebook for the caller again: raises as before."""

    notebook: OpenNotebook | None
    check: Callable[[], OpenNotebook]


def require_notebook() -> Any:
    """A FastAPI dependency: a NotebookRequest to the notebook of the path.

    A link in the query decides alone: then `notebook` is None. Raises as `require_scope` and `NotebookAccess`, and
    PermissionDenied for a link or a cookie at a host that is not the notebook's own, where others' pages could use it.
    """
    scoped_caller: Callable[[Request], Caller] = require_scope(SCOPE).dependency

    def authorized(request: Request) -> NotebookRequest:
        access, notebook_id = context_of(request).notebooks.access, request.path_params["id"]
        # JupyterLab's pages send their server's own token in that field, with another scheme.
        has_key = request.headers.get("authorization", "").lower().startswith("bearer ")
        if not has_key and request.path_params["path"] == "lab" and "link" in request.query_params:
            _check_host(request, notebook_id)
            return NotebookRequest(None, lambda: access.open_with_cookie(notebook_id, ""))
        cookie = None if has_key else _cookie_of(request)
        if cookie is None:
            caller = scoped_caller(request)
            return NotebookRequest(access.open(caller, notebook_id), lambda: access.open(caller, notebook_id))
        _check_origin(request)
        _check_host(request, notebook_id)
        opened = access.open_with_cookie(notebook_id, cookie)
        return NotebookRequest(opened, lambda: access.open_with_cookie(notebook_id, cookie))

    authorized.scope = SCOPE  # type: ignore[attr-defined]
    authorized.objects = "project"  # type: ignore[attr-defined]
    return Depends(authorized)


def session_cookie(request: Request, notebook_id: str, value: str) -> str:
    """The field that sets the cookie of a browser that opened a notebook: for this host and this notebook alone."""
    secure = "; Secure" if request.url.scheme == "https" else ""
    path = base_url_of(notebook_id).rstrip("/")
    return f"{_COOKIE}={value}; Path={path}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Lax{secure}"


def _cookie_of(request: Request) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _check_origin(request: Request) -> None:
    """Raises PermissionDenied for what a page of another site sends, which a browser adds its cookie to."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host", ""):
        raise PermissionDenied("A notebook takes no requests of other sites.", code="wrong_origin")


def _check_host(request: Request, notebook_id: str) -> None:
    """Raises PermissionDenied if the request's host does not begin with the notebook's id as a label."""
    label, _, rest = request.headers.get("host", "").partition(".")
    if label != notebook_id or not rest:
        raise PermissionDenied(
            f"A browser opens this notebook at its own host only, such as {notebook_id}.localhost on the platform's "
            "machine: get a link there with `llma workspace notebooks open`. Programs send an API key instead.",
            code="notebook_host_required",
        )
