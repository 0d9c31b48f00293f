"""Consumers that work for minutes delay neither the token path nor other events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmariner.context import Context
from llmariner.http.entrypoint import application_of, event_function
from llmariner.platform.events.cloudevents import Event, to_http

from .http_calls import InProcessClient
from .installation import Installation

MANY = 50
EVENT = Event(id="evt_1", type="ai.llmariner.test.v1", subject="x", time=1.5, data={})


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What long work waits for; set at last, for a thread that waits can't be ended."""
    event = threading.Event()
    yield event
    event.set()


async def deliver(application: Any) -> int:
    headers, body = to_http(EVENT)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    await application({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive, send)
    return int(said[0]["status"])


def test_consumers_do_not_use_request_threads(
    installation: Installation, in_process: InProcessClient, release: threading.Event
) -> None:
    at_work: list[str] = []
    running = threading.Event()

    def work(_context: Context, _event: Event) -> None:
        at_work.append(threading.current_thread().name)
        running.set()
        release.wait(60)

    def other(_context: Context, _event: Event) -> None:
        """A consumer with nothing to do."""

    slow, quick = (application_of(event_function(each, from_outbox=False)) for each in (work, other))
    slow.use_context(installation.context)
    quick.use_context(installation.context)

    async def scenario() -> list[int]:
        tasks = [asyncio.create_task(deliver(slow)) for _ in range(MANY)]
        await asyncio.to_thread(running.wait, 60)
        async with asyncio.timeout(20):
            assert await asyncio.to_thread(lambda: "free") == "free"
            assert await deliver(quick) == 204
        assert len(at_work) < MANY / 2
        release.set()
        return await asyncio.gather(*tasks)

    assert in_process.runner.run(scenario()) == [204] * MANY


def test_the_token_path_has_separate_database_threads(
    installation: Installation, in_process: InProcessClient, release: threading.Event
) -> None:
    control = installation.context.in_process_control_plane

    async def scenario() -> None:
        taken = [asyncio.create_task(asyncio.to_thread(release.wait, 60)) for _ in range(MANY)]
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            assert await control.authenticate_key("of nobody", None, None) is None
        release.set()
        await asyncio.gather(*taken)

    in_process.runner.run(scenario())
