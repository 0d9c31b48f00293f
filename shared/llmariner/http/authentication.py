"""Who calls, and may they: for functions that have the database at hand. Every route declares the scope it needs."""

from __future__ import annotations

import time
from typing import Any

from fastapi import Depends, Request

from llmariner.context import Context
from llmariner.gateway.keyring import bad_key, bearer_token, lacking
from llmariner.tenancy.keys import ApiKey

__all__ = ["context_of", "requires"]


def context_of(request: Request) -> Context:
    """The process's parts."""
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


def requires(scope: str) -> Any:
    """A dependency: the caller's key, which must carry `scope`."""

    def authorised(request: Request) -> ApiKey:
        authorization = request.headers.get("authorization")
        secret = bearer_token(authorization.encode("latin-1") if authorization else None)
        keys = context_of(request).keys
        key = keys.by_secret(secret)
        now = time.time()
        if key is None or not key.usable(now) or _superseded(key, keys.digest(secret), now):
            raise bad_key()
        if scope not in key.scopes:
            raise lacking(scope)
        return key

    authorised.scope = scope  # type: ignore[attr-defined]
    return Depends(authorised)


def _superseded(key: ApiKey, digest: str, now: float) -> bool:
    """The secret before the last rotation, after its overlap."""
    return digest == key.previous_digest and (key.previous_expires_at or 0) <= now
