"""JSON documents that an issuer publishes: fetched within bounds of time, size and place."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from llmariner.settings import IdentitySettings

__all__ = ["Unreachable", "discovered", "published_keys"]

TIMEOUT_SECONDS = 5.0
"""For an answer to begin, and then for all of it to come."""

_MOST_BYTES = 1024 * 1024


class Unreachable(Exception):
    """A document could not be had, or is not what it should be; the message says which and why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would let whoever answers choose another place to be believed from."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def discovered(settings: IdentitySettings) -> dict[str, Any]:
    """The issuer's metadata (OpenID Connect Discovery 1.0, 4). Unreachable, also when it is another issuer's."""
    base = settings.internal_url or settings.issuer
    document = _json(f"{base.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != settings.issuer:
        raise Unreachable(
            f"{base} says that it is {document.get('issuer')!r}; LLMARINER_OIDC_ISSUER must be exactly that."
        )
    return document


def published_keys(settings: IdentitySettings) -> list[dict[str, Any]]:
    """The keys that the issuer signs with now, as JSON Web Keys (RFC 7517)."""
    url = str(discovered(settings).get("jwks_uri") or "")
    if settings.internal_url and url.startswith(settings.issuer):
        url = settings.internal_url.rstrip("/") + "/" + url.removeprefix(settings.issuer).lstrip("/")
    if not settings.may_fetch(url):
        raise Unreachable(f"the issuer's jwks_uri {url!r} is no https:// URL")
    keys = _json(url).get("keys")
    if not isinstance(keys, list):
        raise Unreachable(f"{url} holds no keys")
    return [key for key in keys if isinstance(key, dict)]


def _json(url: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    try:
        with _opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            body = _body(answer, url)
        document = json.loads(body)
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"{url} answered {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise Unreachable(f"{url}: {error}") from error
    if not isinstance(document, dict):
        raise Unreachable(f"{url} did not answer with a JSON object")
    return document


def _body(answer: http.client.HTTPResponse, url: str) -> bytes:
    """The whole of it. Unreachable where it is too long, or comes too slowly; the socket's timeout is for each part."""
    body, deadline = bytearray(), time.monotonic() + TIMEOUT_SECONDS
    while part := answer.read1(_MOST_BYTES):
        body += part
        if len(body) > _MOST_BYTES:
            raise Unreachable(f"{url} answered with more than {_MOST_BYTES} bytes")
        if time.monotonic() > deadline:
            raise Unreachable(f"{url} took longer than {TIMEOUT_SECONDS:.0f} s to answer")
    return bytes(body)
