"""Passes requests of the control plane on to the engines of its models in this cluster, and their responses back."""

from __future__ import annotations

import json
import logging
import re

from h2.errors import ErrorCodes

from llmariner.agent.tunnel.engine_pods import EnginePods
from llmariner.errors import PlatformError
from llmariner.http_client import Client, ConnectionFailed, Response, ResponseFailed, ResponseTimeout
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import ClusterError
from llmariner.platform.tunnel import Stream, StreamReset
from llmariner.platform.tunnel.engine_paths import FAILED, EnginePath

__all__ = ["EngineRelay"]

_log = logging.getLogger(__name__)
_METHODS = frozenset({b"GET", b"POST"})
_PASSED = frozenset({b"content-type", b"accept", b"x-request-id"})
_ANSWERED = frozenset({b"content-type", b"content-length", b"retry-after"})
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
# Bodies are held whole, since an engine gets them on a pooled connection; the control plane holds them, too.
_MAX_BODY_BYTES, _MAX_HELD_BYTES = 32 * 1024 * 1024, 128 * 1024 * 1024
# The control plane ends a request before that by resetting its stream.
_READ_SECONDS = 3600.0


class _Refused(Exception):
    """The request goes no further. `status` and the message are the response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EngineRelay:
    """The handler of streams for engines. A stream that is reset ends its request to the engine at once."""

    def __init__(self, cluster: Cluster) -> None:
        self._pods = EnginePods(cluster)
        self._client = Client()
        self._held_bytes = 0

    async def __call__(self, stream: Stream) -> None:
        """Serve one request."""
        try:
            response = await self._send(stream)
        except _Refused as refusal:
            await _answer(stream, refusal.status, str(refusal))
            return
        except StreamReset:
            return
        try:
            await _relay(response, stream)
        except ResponseFailed as error:
            _log.info("an engine broke off in its response: %s", error)
            stream.reset(ErrorCodes.INTERNAL_ERROR)
        except StreamReset:
            pass
        finally:
            response.close()

    def close(self) -> None:
        """Close idle connections to engines."""
        self._client.close()

    async def _send(self, stream: Stream) -> Response:
        """The response's head. _Refused for what is not an engine's, or does not answer."""
        method, path = stream.field(b":method"), EnginePath.parse(stream.field(b":path"))
        fields = [each for each in stream.request if each[0] in _PASSED]
        if path is None or method not in _METHODS or any(not _VALUE.fullmatch(value) for _, value in fields):
            raise _Refused(400, "The agent passes on GET and POST of plain paths to engines.")
        try:
            origin = await self._pods.origin(path.namespace, path.pod)
        except (ClusterError, PlatformError, ValueError) as error:
            status = getattr(error, "status", 502)
            raise _Refused(status if status == 404 else 502, str(error)) from error
        held = 0
        try:
            body = bytearray()
            while data := await stream.read():
                body += data
                self._held_bytes, held = self._held_bytes + len(data), held + len(data)
                if held > _MAX_BODY_BYTES or self._held_bytes > _MAX_HELD_BYTES:
                    raise _Refused(
                        413 if held > _MAX_BODY_BYTES else 503, "The agent holds no more bytes of bodies now."
                    )
            return await self._client.request(
                origin, method.decode(), path.target, headers=fields, body=bytes(body), read_timeout=_READ_SECONDS
            )
        except ResponseTimeout as error:
            raise _Refused(504, "The engine took the request and sent nothing.") from error
        except ConnectionFailed as error:
            self._pods.forget(path.namespace, path.pod)
            raise _Refused(502, f"The engine does not answer the agent: {error}") from error
        finally:
            self._held_bytes -= held


async def _relay(response: Response, stream: Stream) -> None:
    fields = [each for each in response.headers if each[0] in _ANSWERED and _VALUE.fullmatch(each[1])]
    stream.respond(response.status, fields)
    while data := await response.chunk():
        await stream.write(data)
    stream.end()


async def _answer(stream: Stream, status: int, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "tunnel_error", "param": None, "code": None}})
    failed = [] if status in (400, 413) else [FAILED]
    stream.respond(status, [(b"content-type", b"application/json"), *failed])
    await stream.write(body.encode(), end=True)
