"""Bodies of events: truncated by a disconnect, compressed, or unlimited."""

from __future__ import annotations

import asyncio
import gzip
import json
from dataclasses import replace
from typing import Any

import pytest

from llmariner.context import Context
from llmariner.http.entrypoint import application_of, event_function
from llmariner.platform.events.cloudevents import to_http

from .http_calls import HttpRequest, InProcessClient
from .installation import Installation
from .outbox_events import write_event

EVENT = {"id": "evt_1", "type": "ai.llmariner.test.v1", "specversion": "1.0", "source": "/test", "subject": "x"}
HEADERS = {f"ce-{name}": value for name, value in EVENT.items()} | {"ce-time": "2026-01-01T00:00:00Z"}


@pytest.fixture
def taken() -> list[Any]:
    """The data of the events that the consumer received."""
    return []


@pytest.fixture
def application(taken: list[Any], installation: Installation) -> Any:
    def consume(_context: Context, event: Any) -> None:
        taken.append(event.data)

    found = application_of(event_function(consume, from_outbox=False))
    found.use_context(installation.context)
    return found


def test_a_truncated_event_is_rejected(application: Any, taken: list[Any]) -> None:
    messages = [{"type": "http.request", "body": b'{"a": 1}', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []
    headers = [
        (name.encode(), value.encode()) for name, value in {**HEADERS, "content-type": "application/json"}.items()
    ]
    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": headers}

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    assert (taken, sent) == ([], [])


def test_an_endless_event_is_rejected_permanently(
    application: Any, taken: list[Any], in_process: InProcessClient
) -> None:
    body = json.dumps({"a": "x" * 9_000_000}).encode()
    answer = in_process.send(application, HttpRequest("POST", "/", body, HEADERS))
    assert answer.status == 400
    assert taken == []


def test_a_compressed_event_is_accepted(application: Any, taken: list[Any], in_process: InProcessClient) -> None:
    body = gzip.compress(b'{"a": 1}')
    answer = in_process.send(application, HttpRequest("POST", "/", body, {**HEADERS, "content-encoding": "gzip"}))
    assert answer.status == 204
    assert taken == [{"a": 1}]


@pytest.mark.parametrize(
    "part",
    [
        b'"specversion": ["1.0"]',
        b'"specversion": "\\ud8009"',
        b'"id": "\\ud800"',
        b'"type": "a\\u0000b"',
        b'"data": ' + b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=["version-list", "version-no-text", "id-no-text", "type-nul", "deep"],
)
def test_an_unreadable_event_is_rejected_permanently(
    part: bytes, application: Any, taken: list[Any], in_process: InProcessClient
) -> None:
    body = json.dumps({**EVENT, "data": {}}).encode()[:-1] + b", " + part + b"}"  # of two the last counts
    answer = in_process.send(
        application, HttpRequest("POST", "/", body, {"content-type": "application/cloudevents+json"})
    )
    assert answer.status == 400
    assert taken == []


def test_an_outbox_event_is_accepted_only_with_its_type_and_data(
    installation: Installation, in_process: InProcessClient
) -> None:
    taken: list[Any] = []
    believing = application_of(event_function(lambda _context, event: taken.append(event)))
    believing.use_context(installation.context)
    event = write_event(installation, "ai.llmariner.test.v1", {"project_id": None})
    for type_, status in ((event.type, 204), ("ai.llmariner.model.deleted.v1", 400)):
        headers, body = to_http(replace(event, type=type_, subject="forged", data={"project_id": "proj_2"}))
        assert in_process.send(believing, HttpRequest("POST", "/", body, headers)).status == status
    assert taken == [event]
