"""The way to engines of worker clusters: the function `sessions`, which holds the connections of their agents.

An origin is `tunnel:CLUSTER/NAMESPACE/POD`. Responses that no engine gave have a field that says so; they are failed
connections here, as those to an engine that is reached directly, and are handled alike from then on.
"""

from __future__ import annotations

import re

from llmariner.environment import Secret
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.http_client import Client, ConnectionFailed, Headers, Response, ResponseFailed, ResponseTimeout

__all__ = ["ENGINE_AUDIENCE", "ENGINE_SCHEME", "EngineTunnel", "engine_tunnel"]

ENGINE_AUDIENCE = "sessions-engines"
"""The audience of tokens that open the way to engines."""
ENGINE_SCHEME = "tunnel:"
# Names of pods come from the cluster, which is its organization's: nothing but a name reaches a request's line.
_POD_NAME = "[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_ORIGIN = re.compile(f"{ENGINE_SCHEME}([A-Za-z0-9_-]{{1,64}})/({_POD_NAME}/{_POD_NAME})")
_FAILED = b"llmariner-tunnel"
_TIMED_OUT = 504
_MAX_MESSAGE_BYTES = 64 * 1024


class EngineTunnel:
    """See `http_client.Tunnel`. `url`: of the function `sessions`."""

    def __init__(self, url: str, tokens: ServiceTokens) -> None:
        self._url = url
        self._tokens = tokens

    async def request(
        self,
        client: Client,
        origin: str,
        method: str,
        path: str,
        *,
        headers: Headers,
        body: bytes,
        read_timeout: float,
        idempotent: bool,
    ) -> Response:
        """See `http_client.Tunnel`."""
        if (parts := _ORIGIN.fullmatch(origin)) is None:
            raise ConnectionFailed(f"{origin[:300]!a}: this is no engine's pod")
        token = (b"authorization", f"Bearer {self._tokens.token()}".encode())
        response = await client.request(
            self._url,
            method,
            f"/internal/sessions/{parts[1]}/engines/{parts[2]}{path}",
            headers=[*headers, token],
            body=body,
            read_timeout=read_timeout,
            idempotent=idempotent,
        )
        if response.header(_FAILED) is None:
            return response
        try:
            message = (await response.read(_MAX_MESSAGE_BYTES)).decode(errors="replace")
        except ResponseFailed as error:
            message = str(error)
        kind = ResponseTimeout if response.status == _TIMED_OUT else ConnectionFailed
        raise kind(f"{origin}: {message}")


def engine_tunnel(inference_url: str, secret: Secret | None) -> EngineTunnel | None:
    """The way by `LLMARINER_INFERENCE_URL`, with tokens that the service secret signs; None where either is missing."""
    if not inference_url or secret is None:
        return None
    tokens = ServiceTokens(secret.reveal(), issuer="gateway", audience=ENGINE_AUDIENCE)
    return EngineTunnel(inference_url.replace("{function}", "sessions").rstrip("/"), tokens)
