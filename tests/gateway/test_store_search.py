"""The call of a search by another function: what it carries, how its failures reach the caller, and hang-ups."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmariner.errors import PlatformError, Unavailable
from llmariner.file_search.store_search import QueryTooLong, StoreSearch
from llmariner.file_search.tool import FileSearchTool
from llmariner.gateway.authentication.client_attestation import attested_client
from llmariner.http_client import Client
from llmariner.settings import Secret

from .document_library import CHAT, chat_body
from .running_platform import Platform, eventually, running, soon

SECRET = "s" * 64
TOOL = FileSearchTool("tools[1]", ("vs_1", "vs_2"), None, {"max_num_results": 3}, include_results=False)
RAG = FileSearchTool("tools[0]", (), "handbook & more", {}, include_results=False)
HEADERS = {
    b"authorization": b"Bearer key",
    b"openai-project": b"proj_1",
    b"cookie": b"x",
    b"x-forwarded-for": b"8.8.8.8",
}
OK = b'{"data":[]}'


@dataclass
class Function:
    """A function that answers each request in order, and notes heads and bodies. `None` is no answer at all."""

    answers: list[tuple[int, bytes] | None] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    disconnected: int = 0
    url: str = ""
    connections: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection until its client ends it."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await self._answer(reader, writer)
        writer.close()

    async def closed(self) -> None:
        """Wait until no connection is open."""
        if self.connections:
            await asyncio.wait(self.connections, timeout=10)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            self.requests.append((head[0], headers, await reader.readexactly(int(headers["content-length"]))))
            answer = self.answers.pop(0) if self.answers else (200, OK)
            if answer is None:
                await reader.read()
                self.disconnected += 1
                return
            status, body = answer
            lines = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\nretry-after: 7\r\n\r\n"
            writer.write(lines.encode() + body)


def error(code: str | None = None, param: str | None = None) -> bytes:
    return orjson.dumps({"error": {"message": "No.", "type": "x", "code": code, "param": param}})


def searched(function: Function, tool: FileSearchTool = TOOL, *, seconds: float = 20, url: str | None = None) -> Any:
    """The results of a search, or what it raised."""

    async def scenario() -> Any:
        server = await asyncio.start_server(function.serve, "127.0.0.1")
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}" if url is None else url
        client = Client()
        search = StoreSearch(client, origin, HEADERS, ("10.1.2.3", False), Secret(SECRET), seconds=seconds)
        try:
            return await search.results(tool, ["why?"])
        except (PlatformError, QueryTooLong) as raised:
            return raised
        finally:
            client.close()
            server.close()
            await function.closed()

    return asyncio.run(scenario())


def test_a_search_carries_the_callers_credentials_and_address() -> None:
    function = Function([(200, b'{"data":[{"file_id":"file-1"}]}')])
    assert searched(function) == [{"file_id": "file-1"}]
    [(line, headers, body)] = function.requests
    assert line == "POST /v1/vector_stores/search HTTP/1.1"
    assert orjson.loads(body) == {"query": ["why?"], "vector_store_ids": ["vs_1", "vs_2"], "max_num_results": 3}
    assert headers.pop("content-length") == str(len(body))
    assert attested_client(headers.pop("x-llmariner-client").encode(), SECRET) == ("10.1.2.3", False)
    host = headers.pop("host")
    assert host.startswith("127.0.0.1:")
    assert headers == {"authorization": "Bearer key", "openai-project": "proj_1", "content-type": "application/json"}


def test_rag_looks_its_store_up_by_name() -> None:
    function = Function([(200, b'{"data":[{"id":"vs_9"}]}')])
    assert searched(function, RAG) == []
    (lookup, _, _), (_, _, body) = function.requests
    assert lookup == "GET /v1/vector_stores?limit=2&name=handbook%20%26%20more HTTP/1.1"
    assert orjson.loads(body)["vector_store_ids"] == ["vs_9"]


@pytest.mark.parametrize(
    ("status", "code", "param", "expected"),
    [
        (400, None, "filters.value", (400, None, "tools[1].filters.value")),
        (401, "invalid_api_key", None, (401, "invalid_api_key", None)),
        (403, "insufficient_permissions", None, (403, "insufficient_permissions", None)),
        (404, "not_found", "vector_store_ids", (404, "not_found", "tools[1].vector_store_ids")),
        (413, "request_too_large", None, (413, "request_too_large", None)),
        (429, "rate_limit_exceeded", None, (429, "rate_limit_exceeded", None)),
        (429, "insufficient_quota", None, (429, "insufficient_quota", None)),
        (502, "engine_error", None, (502, "engine_error", None)),
        (503, "model_not_ready", None, (503, "model_not_ready", None)),
        (500, None, None, (503, "service_unavailable", None)),
        (302, None, None, (503, "service_unavailable", None)),
    ],
)
def test_errors_of_the_search_reach_the_caller(
    status: int, code: str | None, param: str | None, expected: tuple[int, str | None, str | None]
) -> None:
    raised = searched(Function([(status, error(code, param))]))
    assert (raised.status, raised.code, raised.param) == expected
    assert raised.headers["retry-after"] == "7"
    assert raised.body()["error"]["message"] == "No."


def test_a_query_that_the_embedding_model_does_not_read_is_distinguished() -> None:
    assert isinstance(searched(Function([(400, error("context_length_exceeded"))])), QueryTooLong)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'"x"'),
        (200, b"{}"),
        (200, b'{"data":{}}'),
        (502, b"x"),
        (500, b'{"error":"x"}'),
    ],
)
def test_an_answer_of_another_form_is_unavailable(status: int, body: bytes) -> None:
    raised = searched(Function([(status, body)]))
    assert isinstance(raised, Unavailable), raised
    assert raised.message.endswith("Try again.")


def test_no_answer_and_no_function_are_unavailable() -> None:
    function = Function([None])
    late = searched(function, seconds=0.2)
    assert isinstance(late, Unavailable)
    assert "took more than" in late.message
    assert isinstance(searched(Function(), url="http://127.0.0.1:1"), Unavailable)
    unset = searched(Function(), url="")
    assert (unset.code, unset.headers["x-should-retry"]) == ("not_configured", "false")


@pytest.fixture(scope="module")
def slow() -> Iterator[Function]:
    """A function that never answers, in a thread."""
    function = Function([None] * 100)
    ready = threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        async with await asyncio.start_server(function.serve, "127.0.0.1") as server:
            function.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            loop, stopped = asyncio.get_running_loop(), asyncio.Event()
            stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
            ready.set()
            await stopped.wait()
            await function.closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    ready.wait(10)
    yield function
    stop[0]()
    thread.join(10)


@pytest.fixture(scope="module")
def platform_of_slow(tmp_path_factory: pytest.TempPathFactory, database: Path, slow: Function) -> Iterator[Platform]:
    with running(tmp_path_factory.mktemp("slow"), database, INFERENCE_URL=slow.url) as found:
        found.model(CHAT)
        yield found


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_the_search(platform_of_slow: Platform, slow: Function, stream: bool) -> None:
    before, requests, known = slow.disconnected, len(slow.requests), len(platform_of_slow.ledger(CHAT))

    async def scenario() -> None:
        body = chat_body("Why?", "vs_1", stream=stream)
        answer = await platform_of_slow.caller.open("/v1/chat/completions", body)
        await soon(lambda: len(slow.requests) > requests)
        answer.hang_up()

    asyncio.run(asyncio.wait_for(scenario(), 20))
    eventually(lambda: slow.disconnected == before + 1, what="the end of the search")
    assert len(platform_of_slow.ledger(CHAT)) == known
    plain = {"model": CHAT, "messages": [{"role": "user", "content": "x"}]}
    assert asyncio.run(platform_of_slow.caller.call("/v1/chat/completions", plain)).status == 200
    eventually(lambda: len(platform_of_slow.ledger(CHAT)) == known + 1, what="the plain request in the ledger")
    assert "failed" not in (platform_of_slow.folder / "platform.log").read_text()
