"""Access to the content of a file by a key or sign-in, or by a link."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Depends, Request

from llmariner.audit.request_context import client_address
from llmariner.files.link_tokens import PARAMETER
from llmariner.files.upload_links import OpenedUploadLink
from llmariner.http.authorization.authentication import check_client_network, context_of, require_scope
from llmariner.tenancy.principal import Caller

__all__ = [
    "ContentAccess",
    "UploadAccess",
    "hide_links_in_access_logs",
    "require_scope_or_link",
    "require_scope_or_upload_link",
]

Opened = TypeVar("Opened")
_TOKEN = re.compile(rf"([?&]{PARAMETER}=)[^&\s\"]+")


@dataclass(frozen=True)
class ContentAccess:
    """Who may read the content; `by_link`: the caller is the maker of the link by which somebody reads it."""

    caller: Caller
    by_link: bool


@dataclass(frozen=True)
class UploadAccess:
    """Who may make a file; `link`: the one by which somebody makes it for the caller, None without one."""

    caller: Caller
    link: OpenedUploadLink | None


def require_scope_or_link(scope: str) -> Any:
    """A FastAPI dependency: a ContentAccess to the file of the path.

    A request with a link is decided by the link alone, whatever key it has besides. Raises as `require_scope` without one,
    and as `FileLinks.open`; a key that is bound to networks binds its links to them.
    """
    scoped_caller: Callable[[Request], Caller] = require_scope(scope).dependency

    def authorized(request: Request, link: str | None = None) -> ContentAccess:
        if link is None:
            return ContentAccess(scoped_caller(request), by_link=False)
        links, file_id = context_of(request).file_links, request.path_params["file_id"]
        opened = _opened(request, link, lambda: links.open(link, file_id), signed=links.is_signed(link))
        check_client_network(opened.maker)
        links.audit_use(opened, client_address.get())
        return ContentAccess(opened.maker, by_link=True)

    authorized.scope = scope  # type: ignore[attr-defined]
    authorized.objects = "project"  # type: ignore[attr-defined]
    return Depends(authorized)


def require_scope_or_upload_link(scope: str) -> Any:
    """A FastAPI dependency: an UploadAccess. As `require_scope_or_link`, with `UploadLinks.open`."""
    scoped_caller: Callable[[Request], Caller] = require_scope(scope).dependency

    def authorized(request: Request, link: str | None = None) -> UploadAccess:
        if link is None:
            return UploadAccess(scoped_caller(request), None)
        links = context_of(request).upload_links
        opened = _opened(request, link, lambda: links.open(link), signed=links.is_signed(link))
        check_client_network(opened.maker)
        return UploadAccess(opened.maker, opened)

    authorized.scope = scope  # type: ignore[attr-defined]
    authorized.objects = "project"  # type: ignore[attr-defined]
    return Depends(authorized)


def _opened(request: Request, token: str, find: Callable[[], Opened], *, signed: bool) -> Opened:
    """What `find` returns. Raises as it, and RateLimited after too many invalid links of an address.

    A link that the installation signed is opened whatever else its address sends: jobs of several projects have one address.
    """
    if signed:
        return find()
    return context_of(request).secret_lookups.look_up(
        token, find, client_address.get(), untrusted_proxy=bool(request.state.untrusted_proxy)
    )


def hide_links_in_access_logs() -> None:
    """Have a server that logs the URLs of requests, as functions-framework's does, log them without links."""
    logging.getLogger("uvicorn.access").addFilter(_redact)


def _redact(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(_TOKEN.sub(r"\1***", each) if isinstance(each, str) else each for each in record.args)
    return True
