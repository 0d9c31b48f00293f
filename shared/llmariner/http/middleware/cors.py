"""The CORS protocol (https://fetch.spec.whatwg.org/): which origins' pages may call the platform from a browser."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmariner.environment import Environment
from llmariner.errors import PermissionDenied
from llmariner.gateway.responses.messages import Message, Scope, Send, default_headers, send_error

__all__ = ["Cors"]

_ORIGIN = re.compile(r"(https?)://((?:[a-z0-9-]+\.)*[a-z0-9-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?")
_LOOPBACK = re.compile(r"https?://(localhost|[a-z0-9-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, \t-]{1,2048}")
# Browsers omit these (https://html.spec.whatwg.org/#ascii-serialisation-of-an-origin).
_DEFAULT_PORTS = {"http": 80, "https": 443}
_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_RATE_LIMITS = [f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")]
_EXPOSED_HEADERS = ", ".join(
    [
        *("x-request-id", "retry-after", "retry-after-ms", "x-should-retry"),
        *("openai-organization", "openai-processing-ms", "openai-version"),
        *_RATE_LIMITS,
    ]
).encode()
_MAX_AGE_SECONDS = b"7200"  # the most that Chromium caches a preflight for


@dataclass(frozen=True)
class Cors:
    """Allowed origins. Browser credentials (cookies) are never allowed: a page sends an API key or a token."""

    origins: frozenset[str] = frozenset()
    loopback: bool = False
    any_origin: bool = False

    @classmethod
    def load(cls, env: Environment) -> Cors | None:
        """Parse `LLMARINER_CORS_ORIGINS`: origins, `loopback` or `*`, separated by commas or spaces; None if unset."""
        words = frozenset(re.split(r"[,\s]+", env.get("LLMARINER_CORS_ORIGINS", "").strip(", \t\n"))) - {""}
        if not words:
            return None
        origins = frozenset(_serialize_origin(each) for each in words - {"loopback", "*"})
        return cls(origins, loopback="loopback" in words, any_origin="*" in words)

    def allows(self, origin: bytes) -> bool:
        """Whether a page of that origin may read responses."""
        text = origin.decode("latin-1")
        return self.any_origin or text in self.origins or (self.loopback and bool(_LOOPBACK.fullmatch(text)))

    async def preflight(self, scope: Scope, headers_by_name: Mapping[bytes, bytes], send: Send) -> bool:
        """Answer a preflight request and return True; return False for any other request."""
        origin = headers_by_name.get(b"origin")
        if scope["method"] != "OPTIONS" or origin is None or b"access-control-request-method" not in headers_by_name:
            return False
        vary = (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
        if not self.allows(origin):
            error = PermissionDenied(
                f"Pages of the origin {origin.decode('latin-1')!r} may not call this platform. "
                "Its operator can allow them with LLMARINER_CORS_ORIGINS.",
                code="origin_not_allowed",
            )
            await send_error(send, error, [*default_headers(), vary])
            return True
        requested_headers = headers_by_name.get(b"access-control-request-headers", b"")
        headers = [
            *default_headers(),
            (b"access-control-allow-origin", self._allow_origin_value(origin)),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _MAX_AGE_SECONDS),
            vary,
        ]
        if _HEADER_NAMES.fullmatch(requested_headers):
            headers.append((b"access-control-allow-headers", requested_headers))
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return True

    def wrap_send(self, origin: bytes | None, send: Send) -> Send:
        """A `send` that adds the CORS headers to every response, errors and streams included."""
        added = [] if self.any_origin else [(b"vary", b"Origin")]
        if origin is not None and self.allows(origin):
            added.append((b"access-control-allow-origin", self._allow_origin_value(origin)))
            added.append((b"access-control-expose-headers", _EXPOSED_HEADERS))

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return with_headers

    def _allow_origin_value(self, origin: bytes) -> bytes:
        return b"*" if self.any_origin else origin


def _serialize_origin(text: str) -> str:
    """An origin as browsers serialize it. Raises ValueError for text that is not an origin."""
    found = _ORIGIN.fullmatch(text)
    port = int(found[3]) if found and found[3] else None
    if found is None or not (port is None or 0 < port < 65536):
        raise ValueError(
            "LLMARINER_CORS_ORIGINS must be origins as browsers say them, such as https://app.example.org or "
            f"http://localhost:5173 (no path, no capitals), or 'loopback', or '*'; not {text!r}."
        )
    named = f"{found[1]}://{found[2]}"
    return named if port in (None, _DEFAULT_PORTS[found[1]]) else f"{named}:{port}"
