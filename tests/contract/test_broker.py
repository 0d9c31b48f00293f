"""Events reach a Broker over HTTP: in order, at least once, and none is lost while it is away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import func, select

from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.platform.events.broker import Publisher
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.events.tables import events
from llmariner.platform.events.wire import Event, from_http
from llmariner.settings import BrokerSettings


class Ingress(ThreadingHTTPServer):
    """What a Broker's ingress is to a publisher: it takes an event, or says that it can't."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.taken: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self.status = 202

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/ns/default"


class Taking(BaseHTTPRequestHandler):
    server: Ingress

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.status == 202:
            self.server.taken.append(from_http(dict(self.headers), body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def ingress() -> Iterator[Ingress]:
    server = Ingress()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def emit(database: Database, *subjects: str) -> None:
    with database.write() as session:
        for subject in subjects:
            outbox.add(session, "t", subject, {"id": subject, "project_id": None})


def left(database: Database) -> int:
    with database.read() as session:
        return int(session.value(select(func.count()).select_from(events).where(events.c.published.is_(False))))


def test_events_arrive_in_order_with_their_attributes(database: Database, ingress: Ingress) -> None:
    emit(database, *"abc")
    assert Publisher(database, BrokerSettings(ingress.url)).publish() == 3
    assert [(event.type, event.subject, event.data["id"]) for event in ingress.taken] == [("t", s, s) for s in "abc"]
    assert len({event.id for event in ingress.taken}) == 3
    assert left(database) == 0


def test_what_was_taken_is_not_sent_again(database: Database, ingress: Ingress) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, "a")
    publisher.publish()
    emit(database, "b")
    assert publisher.publish() == 1
    assert [event.subject for event in ingress.taken] == ["a", "b"]


@pytest.mark.parametrize("status", [429, 503, 400])
def test_a_broker_that_refuses_loses_nothing(database: Database, ingress: Ingress, status: int) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, *"ab")
    ingress.status = status
    assert publisher.publish() == 0
    assert left(database) == 2
    ingress.status = 202
    assert publisher.publish() == 2
    assert [event.subject for event in ingress.taken] == ["a", "b"]


def test_a_broker_that_is_away_loses_nothing(database: Database) -> None:
    emit(database, "a")
    assert Publisher(database, BrokerSettings("http://127.0.0.1:9/")).publish() == 0
    assert left(database) == 1


def test_a_dead_letter_that_is_replayed_goes_to_the_broker_again(database: Database, ingress: Ingress) -> None:
    publisher, book = Publisher(database, BrokerSettings(ingress.url)), Deliveries(database, ())
    emit(database, "a")
    publisher.publish()
    (event,) = ingress.taken
    book.bury(event, "consumer", "503: no")
    assert publisher.publish() == 0
    assert book.replay("proj_1", event.id) == 1
    ingress.status = 503
    assert publisher.publish() == 0
    ingress.status = 202
    assert publisher.publish() == 1
    assert ingress.taken == [event, event]
    assert publisher.publish() == 0
    (shown,) = book.page("proj_1", None, after=None, limit=10)
    assert (shown.event.id, shown.state) == (event.id, "delivered")
    # It may die again.
    book.bury(event, "consumer", "400: never")
    assert [d.last_error for d in book.page("proj_1", "dead", after=None, limit=10)] == ["400: never"]


def test_a_broker_that_asks_is_told_who_we_are_by_the_token_of_the_moment(
    database: Database, ingress: Ingress, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    publisher = Publisher(database, BrokerSettings(ingress.url, token))
    emit(database, "a")
    assert publisher.publish() == 0, "without its token nothing is sent, and nothing lost"
    for content in ("first\n", "second"):
        token.write_text(content)
        emit(database, "b")
        publisher.publish()
    assert [headers["authorization"] for headers in ingress.headers] == ["Bearer first"] * 2 + ["Bearer second"]


def test_events_of_one_subject_go_one_way_through_the_broker(database: Database, ingress: Ingress) -> None:
    emit(database, "a", "b", "a")
    Publisher(database, BrokerSettings(ingress.url)).publish()
    assert [headers["ce-partitionkey"] for headers in ingress.headers] == ["a", "b", "a"]
