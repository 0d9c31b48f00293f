"""A function with a Broker publishes its events after the response, without delaying requests."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from llmariner.context import Context
from llmariner.http.entrypoint import application_of, event_function
from llmariner.http.middleware.outbox import OutboxMiddleware
from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events import outbox
from llmariner.platform.events.cloudevents import Event, to_http
from llmariner.platform.events.deliveries import Deliveries
from llmariner.settings import DatabaseSettings

SCOPE = {"type": "http", "method": "POST", "path": "/"}


class SlowPublisher:
    """Publishes when permitted; counts its calls and the concurrent ones."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.times = self.at_once = self.most_at_once = 0

    def publish(self) -> int:
        self.times += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.let.wait(30)
        self.at_once -= 1
        return 0


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(DatabaseSettings(f"sqlite:///{tmp_path / 'database'}"))
    upgrade(made)
    return made


@pytest.fixture
def publisher() -> SlowPublisher:
    return SlowPublisher()


async def until(happened: Any) -> None:
    for _ in range(3000):
        if happened():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen within 30 s")


def test_a_mutations_events_are_published_without_delaying_the_response(
    database: Database, publisher: SlowPublisher
) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        with database.write() as session:
            outbox.add(session, "t", "x", {})

    async def run() -> None:
        publishing = OutboxMiddleware(app, lambda: publisher)
        # Ends though nothing can be published: the server may take the connection's next request.
        await asyncio.wait_for(publishing(SCOPE, None, None), 10)
        await until(lambda: publisher.times)
        for _ in range(5):
            await asyncio.wait_for(publishing(SCOPE, None, None), 10)
        assert (publisher.times, publisher.most_at_once) == (1, 1)
        publisher.let.set()
        await until(lambda: publisher.times == 2 and not publisher.at_once)
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert (publisher.times, publisher.most_at_once) == (2, 1), "the five that came meanwhile are one more"


def test_a_replayed_dead_letter_is_published(database: Database, publisher: SlowPublisher) -> None:
    store = Deliveries(database, ())
    with database.write() as session:
        outbox.add(session, "t", "x", {})
    (shown,) = store.page("p", None, after=None, limit=1)
    store.record_dead_letter(shown.event, "consumer", "503: no")

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        store.replay("p", shown.event.id)

    async def run() -> None:
        publisher.let.set()
        await OutboxMiddleware(app, lambda: publisher)(SCOPE, None, None)
        await until(lambda: publisher.times)
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert publisher.times == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_events_publishes_nothing(method: str, publisher: SlowPublisher) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    async def run() -> None:
        await OutboxMiddleware(app, lambda: publisher)({**SCOPE, "method": method}, None, None)
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert publisher.times == 0


def test_a_publisher_failure_fails_no_request_and_is_retried(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[int] = []

    class BrokenPublisher:
        def publish(self) -> int:
            asked.append(1)
            raise RuntimeError("the database is away")

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        with database.write() as session:
            outbox.add(session, "t", "x", {})

    async def run() -> None:
        publishing = OutboxMiddleware(app, BrokenPublisher)
        for number in (1, 2):
            await publishing(SCOPE, None, None)
            await until(lambda number=number: len(asked) == number)
            await asyncio.sleep(0.05)

    asyncio.run(run())
    assert "the next sweep" in caplog.text


def test_events_of_a_consumer_are_published(database: Database, publisher: SlowPublisher) -> None:
    def work(context: Context, _event: Event) -> None:
        with context.database.write() as session:
            outbox.add(session, "t", "x", {})

    env = {"LLMARINER_DATABASE_URL": database.url, "LLMARINER_BROKER_URL": "http://127.0.0.1:9/"}
    context = Context({**env, "LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32})
    context.publisher = cast(Any, publisher)
    application = application_of(event_function(work, from_outbox=False))
    application.use_context(context)
    headers, body = to_http(Event("evt_1", "t", "x", 1.5, {}))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    async def run() -> None:
        await asyncio.wait_for(application({**SCOPE, "headers": raw}, receive, send), 10)
        await until(lambda: publisher.times)
        publisher.let.set()
        await until(lambda: not publisher.at_once)
        await asyncio.sleep(0.05)

    asyncio.run(run())
    assert said[0]["status"] == 204
    context.database.close()
