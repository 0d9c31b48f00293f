"""OpenID Connect discovery: fetches the issuer's metadata and signing keys, with limits on time, size and URL."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from llmariner.settings import IdentitySettings

__all__ = ["DiscoveryError", "fetch_metadata", "fetch_signing_keys"]

TIMEOUT_SECONDS = 5.0
"""The timeout until a response begins, and then for all of it."""

_MAX_BYTES = 1024 * 1024


class DiscoveryError(Exception):
    """A document could not be fetched or is invalid; the message says which and why."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would let the server choose another origin to trust."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def fetch_metadata(settings: IdentitySettings) -> dict[str, Any]:
    """The issuer's metadata (OpenID Connect Discovery 1.0, 4). DiscoveryError, also for another issuer's metadata."""
    base = settings.internal_url or settings.issuer
    document = _fetch_json(f"{base.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != settings.issuer:
        raise DiscoveryError(
            f"{base} says that it is {document.get('issuer')!r}; LLMARINER_OIDC_ISSUER must be exactly that."
        )
    return document


def fetch_signing_keys(settings: IdentitySettings) -> list[dict[str, Any]]:
    """The issuer's current signing keys, as JSON Web Keys (RFC 7517). DiscoveryError."""
    url = str(fetch_metadata(settings).get("jwks_uri") or "")
    if settings.internal_url and url.startswith(settings.issuer):
        url = settings.internal_url.rstrip("/") + "/" + url.removeprefix(settings.issuer).lstrip("/")
    if not settings.is_trusted_url(url):
        raise DiscoveryError(f"the issuer's jwks_uri {url!r} is no https:// URL")
    keys = _fetch_json(url).get("keys")
    if not isinstance(keys, list):
        raise DiscoveryError(f"{url} holds no keys")
    return [key for key in keys if isinstance(key, dict)]


def _fetch_json(url: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    try:
        with _opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            body = _read_body(response, url)
        document = json.loads(body)
    except urllib.error.HTTPError as error:
        error.close()
        raise DiscoveryError(f"{url} answered {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
        raise DiscoveryError(f"{url}: {error}") from error
    if not isinstance(document, dict):
        raise DiscoveryError(f"{url} did not answer with a JSON object")
    return document


def _read_body(response: http.client.HTTPResponse, url: str) -> bytes:
    """Read the body. DiscoveryError where it is too long or too slow: the socket's timeout applies to each read only."""
    body, deadline = bytearray(), time.monotonic() + TIMEOUT_SECONDS
    while part := response.read1(_MAX_BYTES):
        body += part
        if len(body) > _MAX_BYTES:
            raise DiscoveryError(f"{url} answered with more than {_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise DiscoveryError(f"{url} took longer than {TIMEOUT_SECONDS:.0f} s to answer")
    return bytes(body)
