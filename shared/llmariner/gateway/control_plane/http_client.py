"""The control plane over HTTP, for processes without a database: a client of the `internal_gateway` function."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from llmariner.environment import Secret
from llmariner.errors import AuthenticationFailed, InvalidRequest, ModelNotFound, PermissionDenied, Unavailable
from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.control_plane.port import Changes, Key, LeaseRequest, LeaseResponse, ModelState
from llmariner.gateway.control_plane.retries import ControlPlaneUnreachable
from llmariner.gateway.control_plane.serialization import (
    changes_from_wire,
    key_from_wire,
    lease_request_to_wire,
    lease_response_from_wire,
    model_from_wire,
)
from llmariner.gateway_settings import ControlPlaneSettings
from llmariner.http_client import Client, ConnectionFailed, Response, ResponseFailed, ResponseTimeout

__all__ = ["AUDIENCE", "HttpControlPlane"]

AUDIENCE = "internal_gateway"
_log = logging.getLogger(__name__)
_ROOT = "/internal/gateway"
# A cold start of the function takes some seconds. A database that hangs would block it for minutes.
_TIMEOUT_SECONDS = 15.0
# The network of a pod that has just started refuses connections until its policies are in place.
_RECONNECT_SECONDS = 3.0
_FIRST_PAUSE_SECONDS = 0.05
# Of Knative's proxies and of a gateway, while no process of the function is ready; of the function without its database.
_UNREACHABLE = frozenset({502, 503, 504})

Value = TypeVar("Value")


class HttpControlPlane:
    """See `ControlPlane`."""

    def __init__(self, settings: ControlPlaneSettings, secret: Secret, *, issuer: str) -> None:
        self._url = settings.url
        self._client = Client()
        self._tokens = ServiceTokens(secret.reveal(), issuer=issuer, audience=AUDIENCE)

    async def authenticate_key(self, digest: str, organization: str | None, project: str | None) -> Key | None:
        """See the port."""
        found = await self.call("key", {"digest": digest, "organization": organization, "project": project})
        return _read(_key_or_raise, found)

    async def authenticate_user(
        self, token: str, organization: str | None, project: str | None, client_address: str | None
    ) -> Key | None:
        """See the port."""
        arguments = {"token": token, "organization": organization, "project": project, "source": client_address}
        return _read(_key_or_raise, await self.call("person", arguments))

    async def model_state(self, model_id: str) -> ModelState:
        """See the port."""
        found = await self.call("model", {"model": model_id})
        state = _read(lambda value: None if value["model"] is None else model_from_wire(value["model"]), found)
        if state is None:
            raise ModelNotFound(model_id.partition("@")[0])  # without the suffix of a project's own model
        return state

    async def wake(self, model_id: str) -> None:
        """See the port."""
        await self.call("wake", {"model": model_id})

    async def report_waiting(self, instance: str, counts: Mapping[str, int]) -> None:
        """See the port."""
        await self.call("waiting", {"process": instance, "counts": dict(counts)})

    async def changes_since(self, cursor: str, limits_revision: int) -> Changes:
        """See the port."""
        return _read(changes_from_wire, await self.call("changes", {"cursor": cursor, "rules": limits_revision}))

    async def lease(self, request: LeaseRequest) -> LeaseResponse:
        """See the port."""
        return _read(lease_response_from_wire, await self.call("lease", lease_request_to_wire(request)))

    async def record_events(self, events: Sequence[dict[str, Any]]) -> None:
        """See the port."""
        await self.call("record", {"events": list(events)})

    async def record_last_used(self, last_used: dict[str, int]) -> None:
        """See the port."""
        await self.call("used", {"last_used": last_used})

    async def call(self, operation: str, value: dict[str, Any]) -> dict[str, Any]:
        """Post a JSON object to an operation of the `internal_gateway` function, and return the response.

        Raises InvalidRequest for status 400, which a retry would not change, ControlPlaneUnreachable when no process of the
        function answered, and Unavailable for any other failure, also where the response is no JSON object.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                response = await self._send(f"{_ROOT}/{operation}", orjson.dumps(value))
                answer = await response.read()
        except (ConnectionFailed, ResponseFailed, TimeoutError) as error:
            _log.warning("no answer from the control function to %s: %s", operation, str(error) or "its time was over")
            raise ControlPlaneUnreachable(
                "The control function does not answer.", headers={"retry-after": "2"}
            ) from error
        if response.status == 400:
            raise InvalidRequest(f"The control function refused '{operation}': {answer[:300].decode(errors='replace')}")
        if response.status != 200:
            kind = ControlPlaneUnreachable if response.status in _UNREACHABLE else Unavailable
            raise kind(f"The control function answered {response.status}.", headers={"retry-after": "2"})
        return _read(_object, answer)

    async def _send(self, path: str, body: bytes) -> Response:
        """The response to a request, sent again for a while if no connection is made: each operation is idempotent."""
        headers = [
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + self._tokens.token().encode()),
        ]
        pause, waited = _FIRST_PAUSE_SECONDS, 0.0
        while True:
            try:
                return await self._client.request(self._url, "POST", path, headers=headers, body=body, idempotent=True)
            except ResponseTimeout:
                raise
            except ConnectionFailed:
                if waited >= _RECONNECT_SECONDS:
                    raise
            await asyncio.sleep(pause)
            waited += pause
            pause *= 2


def _read(parse: Callable[[Any], Value], response: Any) -> Value:
    """Parse a response of the control function. Unavailable for any other, which is of something between.

    Not what parsing raises: the meter takes a ValueError for a refusal of its events, and drops them.
    """
    try:
        return parse(response)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = "Something else answers in place of the control function."
        raise Unavailable(message, headers={"retry-after": "2"}) from error


def _object(answer: bytes) -> dict[str, Any]:
    decoded = orjson.loads(answer)
    if not isinstance(decoded, dict):
        raise TypeError("no JSON object")
    return decoded


def _key_or_raise(found: dict[str, Any]) -> Key | None:
    if refused := found.get("refused"):
        raise (PermissionDenied if refused["status"] == 403 else AuthenticationFailed)(
            refused["message"], param=refused["param"], code=refused["code"]
        )
    return key_from_wire(found["key"]) if found["key"] else None
