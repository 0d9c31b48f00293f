"""Events reach a Broker over HTTP: in order, at least once, and none is lost while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from llmariner.platform.database import Database
from llmariner.platform.database.tables import work_leases
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events import outbox
from llmariner.platform.events.broker import Publisher
from llmariner.platform.events.cloudevents import Event, from_http
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.events.publish_queue import PublishQueue
from llmariner.platform.events.tables import deliveries, events
from llmariner.settings import BrokerSettings


class Ingress(ThreadingHTTPServer):
    """A Broker's ingress: it accepts an event or rejects it with a status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), AcceptingIngress)
        self.taken: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self.asked: list[str] = []
        self.status = 202
        self.refused: dict[str, int] = {}
        self.meanwhile: Callable[[str], None] = lambda subject: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/ns/default"


class AcceptingIngress(BaseHTTPRequestHandler):
    """Accepts events, and records them."""

    server: Ingress

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        subject = self.headers["ce-subject"]
        self.server.asked.append(subject)
        self.server.meanwhile(subject)
        status = self.server.refused.get(subject, self.server.status)
        if status == 202:
            self.server.taken.append(from_http(dict(self.headers), body))
        answer = b"" if status == 202 else b"no"
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

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


def test_an_accepted_event_is_not_sent_again(database: Database, ingress: Ingress) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, "a")
    publisher.publish()
    emit(database, "b")
    assert publisher.publish() == 1
    assert [event.subject for event in ingress.taken] == ["a", "b"]


@pytest.fixture(autouse=True)
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for the next attempt ends only by `let_time_pass`, however busy the machine is."""
    monkeypatch.setattr("llmariner.platform.events.publish_queue._INITIAL_BACKOFF", 60.0)


def let_time_pass(database: Database) -> None:
    """End every pause and every wait for a next attempt."""
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=0.0))
        session.run(update(deliveries).where(deliveries.c.state == "pending").values(due_at=0.0))


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_a_broker_with_temporary_errors_loses_no_event(status: int, database: Database, ingress: Ingress) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, *"ab")
    ingress.status = status
    assert publisher.publish() == 0
    assert left(database) == 2
    ingress.status = 202
    assert publisher.publish() == 0, "each waits for its next attempt"
    let_time_pass(database)
    assert publisher.publish() == 2
    assert [event.subject for event in ingress.taken] == ["a", "b"]
    assert [(d.consumer, d.state) for d in Deliveries(database, ()).page("p", None, after=None, limit=9)] == [
        ("", "delivered"),
        ("", "delivered"),
    ]


def test_an_event_that_the_broker_always_rejects_becomes_a_dead_letter_and_blocks_no_other(
    database: Database, ingress: Ingress, caplog: pytest.LogCaptureFixture
) -> None:
    publisher, store = Publisher(database, BrokerSettings(ingress.url)), Deliveries(database, ())
    emit(database, "poison", "b", "poison")
    ingress.refused = {"poison": 400}
    assert publisher.publish() == 1
    assert [event.subject for event in ingress.taken] == ["b"]
    assert left(database) == 0
    dead = store.page("p", "dead", after=None, limit=9)
    assert [(d.consumer, d.event.subject, d.last_error) for d in dead] == [("broker", "poison", "400: no")] * 2
    assert "rejected event" in caplog.text
    assert "dead letter" in caplog.text
    ingress.refused = {}
    assert store.replay("p", dead[0].event.id) == 1
    assert publisher.publish() == 1
    assert ingress.taken[-1].id == dead[0].event.id
    assert len(store.page("p", "dead", after=None, limit=9)) == 1


def test_a_temporarily_rejected_event_blocks_only_its_subject(database: Database, ingress: Ingress) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, "a", "a", "b")
    ingress.refused = {"a": 503}
    assert publisher.publish() == 1
    assert [event.subject for event in ingress.taken] == ["b"]
    emit(database, "a", "c")
    assert publisher.publish() == 1
    assert ingress.asked == ["a", "b", "c"], "the refused one waits, and what is of its subject"
    ingress.refused = {}
    let_time_pass(database)
    assert publisher.publish() == 3
    assert [event.subject for event in ingress.taken] == ["b", "c", "a", "a", "a"]


def test_an_event_rejected_for_days_is_given_up(database: Database, ingress: Ingress) -> None:
    emit(database, "a")
    with database.write() as session:
        session.run(update(events).values(time=time.time() - 4 * 86400))
    ingress.status = 503
    Publisher(database, BrokerSettings(ingress.url)).publish()
    assert [d.consumer for d in Deliveries(database, ()).page("p", "dead", after=None, limit=9)] == ["broker"]


def test_a_broker_that_is_down_loses_no_event_and_gets_a_pause(
    database: Database, ingress: Ingress, caplog: pytest.LogCaptureFixture
) -> None:
    emit(database, "a")
    assert Publisher(database, BrokerSettings("http://127.0.0.1:9/")).publish() == 0
    assert left(database) == 1
    assert "1 events wait" in caplog.text
    there = Publisher(database, BrokerSettings(ingress.url))
    assert there.publish() == 0
    assert ingress.asked == []
    let_time_pass(database)
    assert there.publish() == 1


def test_one_process_publishes_at_a_time_and_events_in_between_are_not_left(
    database: Database, ingress: Ingress
) -> None:
    first, second = (Publisher(database, BrokerSettings(ingress.url)) for _ in range(2))
    emit(database, *"abc")
    reported: list[int] = []

    def meanwhile(subject: str) -> None:
        if subject == "c":  # the last that the first has read
            emit(database, "late")
            reported.append(second.publish())

    ingress.meanwhile = meanwhile
    assert first.publish() == 4
    assert reported == [0]
    assert [event.subject for event in ingress.taken] == ["a", "b", "c", "late"]
    assert second.publish() == 0


def test_a_publisher_without_its_lease_sends_nothing(database: Database, ingress: Ingress) -> None:
    emit(database, *"abc")

    def meanwhile(subject: str) -> None:
        with database.write() as session:
            session.run(update(work_leases).values(holder="another", expires_at=session.now() + 30))

    ingress.meanwhile = meanwhile
    assert Publisher(database, BrokerSettings(ingress.url)).publish() == 1
    assert ingress.asked == ["a"]
    assert left(database) == 2


def test_a_broker_that_rejects_everything_gets_a_pause(database: Database, ingress: Ingress) -> None:
    publisher = Publisher(database, BrokerSettings(ingress.url))
    emit(database, *"abcdefgh")
    ingress.status = 503
    assert publisher.publish() == 0
    assert ingress.asked == list("abcde"), "so many refusals in a row are not the events' fault"
    ingress.refused, ingress.status = {"g": 503}, 202
    assert publisher.publish() == 0, "paused"
    let_time_pass(database)
    assert publisher.publish() == 7


def test_a_broker_that_accepts_some_events_is_sent_all_of_them(database: Database, ingress: Ingress) -> None:
    emit(database, *"abcdefghijkl")
    ingress.refused = dict.fromkeys("acegik", 503)
    assert Publisher(database, BrokerSettings(ingress.url)).publish() == 6
    first_asked = list(dict.fromkeys(ingress.asked))  # a slow one comes to those that are to be tried again
    assert first_asked == list("abcdefghijkl")


def test_the_lease_of_a_dead_publisher_expires(database: Database, ingress: Ingress) -> None:
    assert WorkLease(database, "publish", "dead").acquire(30.0) == 0
    emit(database, "a")
    publisher = Publisher(database, BrokerSettings(ingress.url))
    assert publisher.publish() == 0
    let_time_pass(database)
    assert publisher.publish() == 1


def test_pending_events_are_counted_and_timed(database: Database, ingress: Ingress) -> None:
    publication = PublishQueue(database)
    assert publication.backlog() == (0, 0.0)
    emit(database, *"ab")
    with database.write() as session:
        session.run(update(events).where(events.c.subject == "a").values(time=time.time() - 50))
    count, seconds = publication.backlog()
    assert (count, 49 < seconds < 120) == (2, True)
    Publisher(database, BrokerSettings(ingress.url)).publish()
    assert publication.backlog() == (0, 0.0)


def test_a_replayed_dead_letter_is_sent_to_the_broker_again(database: Database, ingress: Ingress) -> None:
    publisher, store = Publisher(database, BrokerSettings(ingress.url)), Deliveries(database, ())
    emit(database, "a")
    publisher.publish()
    (event,) = ingress.taken
    store.record_dead_letter(event, "consumer", "503: no")
    assert publisher.publish() == 0
    assert store.replay("proj_1", event.id) == 1
    ingress.status = 503
    assert publisher.publish() == 0
    assert ingress.asked == ["a", "a"], "it waits as a whole for its next attempt"
    ingress.status = 202
    let_time_pass(database)
    assert publisher.publish() == 1
    assert ingress.taken == [event, event]
    assert publisher.publish() == 0
    (shown,) = store.page("proj_1", None, after=None, limit=10)
    assert (shown.event.id, shown.state) == (event.id, "delivered")
    # It may die again.
    store.record_dead_letter(event, "consumer", "400: never")
    assert [d.last_error for d in store.page("proj_1", "dead", after=None, limit=10)] == ["400: never"]


def test_the_current_identity_token_is_sent_to_the_broker(database: Database, ingress: Ingress, tmp_path: Path) -> None:
    token = tmp_path / "token"
    publisher = Publisher(database, BrokerSettings(ingress.url, token))
    emit(database, "a")
    assert publisher.publish() == 0, "without its token nothing is sent, and nothing lost"
    let_time_pass(database)
    for content in ("first\n", "second"):
        token.write_text(content)
        emit(database, "b")
        publisher.publish()
    assert [headers["authorization"] for headers in ingress.headers] == ["Bearer first"] * 2 + ["Bearer second"]


def test_the_partition_key_is_the_subject(database: Database, ingress: Ingress) -> None:
    emit(database, "a", "b", "a")
    Publisher(database, BrokerSettings(ingress.url)).publish()
    assert [headers["ce-partitionkey"] for headers in ingress.headers] == ["a", "b", "a"]
