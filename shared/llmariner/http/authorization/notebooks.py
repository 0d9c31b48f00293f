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
_OTHER_HOSTS = ("same-site", "cross-site")


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
        notebooks, notebook_id = context_of(request).notebooks, request.path_params["id"]
        access, hosts = notebooks.access, notebooks.hosts
        # JupyterLab's pages send their server's own token in that field, with another scheme.
        has_key = request.headers.get("authorization", "").lower().startswith("bearer ")
        if not has_key and request.path_params["path"] == "lab" and "link" in request.query_params:
            hosts.check(request.headers, notebook_id)
            return NotebookRequest(None, lambda: access.open_with_cookie(notebook_id, ""))
        cookie = None if has_key else _cookie_of(request)
        if cookie is None:
            caller = scoped_caller(request)
            return NotebookRequest(access.open(caller, notebook_id), lambda: access.open(caller, notebook_id))
        _check_origin(request)
        hosts.check(request.headers, notebook_id)
        opened = access.open_with_cookie(notebook_id, cookie)
        return NotebookRequest(opened, lambda: access.open_with_cookie(notebook_id, cookie))

    authorized.scope = SCOPE  # type: ignore[attr-defined]
    authorized.objects = "project"  # type: ignore[attr-defined]
    return Depends(authorized)


def session_cookie(request: Request, notebook_id: str, value: str) -> str:
    """The field that sets the cookie of a browser that opened a notebook: for this host and this notebook alone.

    Where all come by https, its name keeps the host of another notebook from setting it for this one (RFC 6265bis 4.1.3.2).
    """
    is_secure = context_of(request).notebooks.hosts.is_secure
    path = "/" if is_secure else base_url_of(notebook_id).rstrip("/")
    secure = "; Secure" if is_secure or request.url.scheme == "https" else ""
    name = _cookie_name(request)
    return f"{name}={value}; Path={path}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Lax{secure}"


def _cookie_name(request: Request) -> str:
    return f"__Host-{_COOKIE}" if context_of(request).notebooks.hosts.is_secure else _COOKIE


def _cookie_of(request: Request) -> str | None:
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get(_cookie_name(request))
    except CookieError:
        return None
    return None if found is None else found.value


def _check_origin(request: Request) -> None:
    """Raises PermissionDenied for what a page of another host sends, which a browser adds its cookie to.

    Browsers take the hosts of two notebooks for one site. What they say in `Sec-Fetch-Site` no page can change; a person
    who follows a link to a notebook comes from elsewhere, too.
    """
    headers = request.headers
    origin = headers.get("origin")
    host = context_of(request).notebooks.hosts.host_of(headers)
    is_foreign = origin is not None and origin.partition("://")[2].lower() != host
    opens_page = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    if headers.get("sec-fetch-site") in _OTHER_HOSTS and not (opens_page and request.method == "GET"):
        is_foreign = True
    if is_foreign:
        raise PermissionDenied("A notebook takes no requests of other sites.", code="wrong_origin")
