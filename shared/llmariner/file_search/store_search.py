"""Searches through the routes of vector stores, with the caller's own credentials.

So this process needs no access to the database or the index, and scopes, projects, limits and budgets apply as they do to
a search of the caller itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from llmariner.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    EngineFailed,
    InsufficientQuota,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    PlatformError,
    RateLimited,
    Unavailable,
)
from llmariner.file_search.tool import FileSearchTool
from llmariner.gateway.authentication.client_attestation import CLIENT_HEADER, ClientAddress, attest_client
from llmariner.http_client import Client, ConnectionFailed, Response, ResponseFailed
from llmariner.settings import Secret

__all__ = ["QueryTooLong", "StoreSearch"]

_FORWARDED = (b"authorization", b"openai-organization", b"openai-project")
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_FUNCTION = "vector-stores"
_ERRORS: Mapping[int, type[PlatformError]] = {
    400: InvalidRequest,
    401: AuthenticationFailed,
    403: PermissionDenied,
    404: NotFound,
    413: BodyTooLarge,
    429: RateLimited,
    502: EngineFailed,
    503: Unavailable,
}


class QueryTooLong(Exception):
    """The embedding model does not read a query of this length."""


class StoreSearch:
    """Searches on behalf of one request.

    `url`: of the functions, as `InferenceSettings` has it. `headers`: those of the request. `client`: who sent it, for keys
    that are bound to networks. `service_secret`: signs that. `seconds`: the time for all of the search.
    """

    def __init__(
        self,
        http_client: Client,
        url: str,
        headers: Mapping[bytes, bytes],
        client: ClientAddress,
        service_secret: Secret | None,
        *,
        seconds: float,
    ) -> None:
        self._http_client = http_client
        self._url = url
        self._seconds = seconds
        self._headers = [(name, headers[name]) for name in _FORWARDED if name in headers]
        self._headers.append((b"content-type", b"application/json"))
        if service_secret is not None:
            self._headers.append((CLIENT_HEADER, attest_client(client, service_secret.reveal())))

    async def results(self, tool: FileSearchTool, queries: Sequence[str]) -> list[dict[str, Any]]:
        """The results of one search in all stores of the tool, best first.

        Raises the errors of the search for the caller, such as NotFound for an unknown store, Unavailable where the search
        takes too long, and QueryTooLong.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._results(tool, queries)
        except TimeoutError:
            raise Unavailable(
                f"The search in vector stores took more than {self._seconds:.0f} seconds: its embedding model may be "
                "starting. Try again.",
                headers={"retry-after": "5"},
            ) from None

    async def _results(self, tool: FileSearchTool, queries: Sequence[str]) -> list[dict[str, Any]]:
        ids = tool.store_ids or (await self._store_named(tool),)
        body = orjson.dumps({"query": queries, "vector_store_ids": ids, **tool.options})
        answer = await self._call("POST", "/v1/vector_stores/search", body, tool.param, tool.store_param)
        results: list[dict[str, Any]] = answer["data"]
        return results

    async def _store_named(self, tool: FileSearchTool) -> str:
        name, param = tool.store_name or "", tool.store_param
        path = f"/v1/vector_stores?limit=2&name={quote(name, safe='')}"
        found = (await self._call("GET", path, b"", tool.param, param))["data"]
        if not found:
            raise NotFound(
                f"No such vector store: '{name[:64]}'. List those of your project with GET /v1/vector_stores.",
                param=param,
            )
        if len(found) > 1:
            raise InvalidRequest(
                f"Several vector stores have the name '{name[:64]}': use the tool 'file_search' with the id of one.",
                param=param,
                code="ambiguous_name",
            )
        store_id: str = found[0]["id"]
        return store_id

    async def _call(self, method: str, path: str, body: bytes, tool_param: str, store_param: str) -> dict[str, Any]:
        if not self._url:
            raise Unavailable(
                "This gateway can't search vector stores: an operator sets LLMARINER_INFERENCE_URL.",
                code="not_configured",
                headers={"x-should-retry": "false"},
            )
        origin = self._url.replace("{function}", _FUNCTION)
        try:
            response = await self._http_client.request(
                origin, method, path, headers=self._headers, body=body, read_timeout=self._seconds, idempotent=True
            )
            answer = await _read(response)
        except (ConnectionFailed, ResponseFailed, ValueError) as error:
            raise Unavailable(
                "The search in vector stores does not answer. Try again.", headers={"retry-after": "2"}
            ) from error
        if response.status == 200 and isinstance(answer.get("data"), list):
            return answer
        reported = answer.get("error")
        raise _error(response, reported if isinstance(reported, dict) else {}, tool_param, store_param)


async def _read(response: Response) -> dict[str, Any]:
    """The JSON object of a response. ValueError for any other."""
    answer = orjson.loads(await response.read(_MAX_ANSWER_BYTES))
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


def _error(response: Response, reported: Mapping[str, Any], tool_param: str, store_param: str) -> Exception:
    """The error of the search, with the place in this request where its cause is."""
    code, param = reported.get("code"), reported.get("param")
    if code == "context_length_exceeded":
        return QueryTooLong()
    if param == "vector_store_ids":
        param = store_param
    elif isinstance(param, str):
        param = f"{tool_param}.{param}"
    again = response.header(b"retry-after")
    kind = InsufficientQuota if code == "insufficient_quota" else _ERRORS.get(response.status, Unavailable)
    return kind(
        str(reported.get("message") or "The search in vector stores failed. Try again."),
        param=param,
        code=code,
        headers={} if again is None else {"retry-after": again.decode("latin-1")},
    )
