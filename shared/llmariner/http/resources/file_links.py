"""The representation of links to files, with their URLs."""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request

from llmariner.files.links import FileLink
from llmariner.files.upload_links import UploadLink

__all__ = ["file_link_object", "upload_link_object"]

_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


def file_link_object(request: Request, link: FileLink, public_url: str) -> dict[str, Any]:
    """The object of the API. `public_url`: the platform's for clients; empty: as the request or its proxy names it."""
    return {
        "id": link.id,
        "object": "file.link",
        "file_id": link.file_id,
        "created_at": link.created_at,
        "expires_at": link.expires_at,
        "url": (public_url or _requested_url(request)) + link.path,
    }


def upload_link_object(request: Request, link: UploadLink, public_url: str) -> dict[str, Any]:
    """The object of the API for a link to upload; as `file_link_object`."""
    return {
        "id": link.id,
        "object": "upload.link",
        "created_at": link.created_at,
        "expires_at": link.expires_at,
        "method": "PUT",
        "url": (public_url or _requested_url(request)) + link.path,
    }


def _requested_url(request: Request) -> str:
    forwarded = request.headers.get("x-forwarded-host", "")
    host = forwarded if _HOST.fullmatch(forwarded) else request.url.netloc
    scheme = request.headers.get("x-forwarded-proto", "")
    return f"{scheme if scheme in ('http', 'https') else request.url.scheme}://{host}"
