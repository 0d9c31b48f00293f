"""A misbehaving Broker: events wait in order, none is lost, and none blocks those of other subjects."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import update

from llmariner.platform.database import Database
from llmariner.platform.database.tables import work_leases
from llmariner.platform.events import outbox
from llmariner.platform.events.broker import Publisher
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.events.publish_queue import PublishQueue
from llmariner.platform.events.tables import deliveries, events
from llmariner.settings import BrokerSettings

TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
Answer = Callable[[socket.socket, bytes], None]


class Peer:
    """A server that reads a request and then runs the test's function on the connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/ns/default"
        self.requests: list[bytes] = []
        self.answer: Answer = lambda connection, request: connection.sendall(TAKEN)
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = connection.recv(65536)
                self.requests.append(request)
                self.answer(connection, request)
            except OSError:
                pass  # the publisher disconnected


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.platform.events.broker._SEND_SECONDS", 0.5)


def emit(database: Database, *subjects: str) -> None:
    with database.write() as session:
        for subject in subjects:
            outbox.add(session, "t", subject, {"project_id": "p"})


def let_time_pass(database: Database) -> None:
    """End the pause; the next attempt of a rejected event is not due yet."""
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=0.0))
        waiting = deliveries.c.state == "pending"
        session.run(update(deliveries).where(waiting).values(due_at=session.now() + 60))


def end_waits(database: Database) -> None:
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=0.0))
        session.run(update(deliveries).where(deliveries.c.state == "pending").values(due_at=0.0))


def always(answer: bytes) -> Answer:
    return lambda connection, request: connection.sendall(answer)


def hang(connection: socket.socket, _request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 10\r\n\r\nab")
    connection.recv(1)


def trickle(connection: socket.socket, _request: bytes) -> None:
    for _ in range(600):
        connection.sendall(b"H")
        time.sleep(0.05)


def redirect(connection: socket.socket, request: bytes) -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nLocation: /sign-in\r\nContent-Length: 0\r\n\r\n"
    connection.sendall(elsewhere if request.startswith(b"POST") else TAKEN)


ANSWERS: dict[str, Answer] = {
    "another protocol": always(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "a line without end": always(b"HTTP/1.1 202 " + b"x" * 70_000),
    "a thousand fields": always(b"HTTP/1.1 202 Accepted\r\n" + b"x: y\r\n" * 1000 + b"\r\n"),
    "a refusal that breaks off": always(b"HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\nab"),
    "a refusal of broken chunks": always(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a refusal in bytes that are no text": always(b"HTTP/1.1 503 No\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\x00"),
    "a refusal without end": hang,
    "one byte at a time": trickle,
    "a redirect": redirect,
    "nothing": lambda connection, request: None,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_only_a_success_status_counts_as_accepted(answer: Answer, database: Database, peer: Peer) -> None:
    emit(database, "a", "a")
    publisher, peer.answer = Publisher(database, BrokerSettings(peer.url)), answer
    began = time.monotonic()
    assert publisher.publish() == 0
    assert time.monotonic() - began < 10
    assert PublishQueue(database).backlog().events == 2
    assert [request[:4] for request in peer.requests] == [b"POST"]
    peer.answer = always(TAKEN)
    end_waits(database)
    assert publisher.publish() == 2
    assert PublishQueue(database).backlog().events == 0


def test_an_event_without_a_response_blocks_only_its_subject(database: Database, peer: Peer) -> None:
    emit(database, "poison", "b", "poison", "c")
    publisher = Publisher(database, BrokerSettings(peer.url))
    peer.answer = lambda connection, request: None if b": poison\r\n" in request else connection.sendall(TAKEN)
    assert publisher.publish() == 0
    let_time_pass(database)
    assert publisher.publish() == 2
    assert PublishQueue(database).backlog().events == 2
    (waiting,) = (d for d in Deliveries(database, ()).page("p", "pending", after=None, limit=9) if d.consumer)
    assert (waiting.consumer, waiting.event.subject, waiting.attempts) == ("broker", "poison", 1)
    assert (waiting.last_error or "").startswith("no answer: ")
    peer.answer = always(TAKEN)
    end_waits(database)
    assert publisher.publish() == 2


@pytest.mark.parametrize("subject", ["models/日本", "models/ü", 'a "b" 100%', "line\r\nce-id: other"])
def test_any_text_is_a_valid_subject(subject: str, database: Database, peer: Peer) -> None:
    emit(database, subject, "b")
    assert Publisher(database, BrokerSettings(peer.url)).publish() == 2
    assert peer.requests[0].isascii()
    assert peer.requests[0].count(b"ce-id: ") == 1


def test_an_unsendable_event_becomes_a_dead_letter_and_blocks_no_other(database: Database, peer: Peer) -> None:
    emit(database, "a", "b")
    with database.write() as session:
        session.run(update(events).where(events.c.subject == "a").values(time=1e18))
    assert Publisher(database, BrokerSettings(peer.url)).publish() == 1
    (dead,) = Deliveries(database, ()).page("p", "dead", after=None, limit=9)
    assert (dead.consumer, dead.event.subject) == ("broker", "a")
    assert PublishQueue(database).backlog().events == 0


def test_a_clock_set_back_delays_no_event(database: Database, peer: Peer) -> None:
    emit(database, "a", "b")
    tomorrow = time.time() + 86400
    publisher, peer.answer = Publisher(database, BrokerSettings(peer.url)), always(b"HTTP/1.1 503 No\r\n\r\n")
    assert publisher.publish() == 0
    with database.write() as session:
        session.run(update(work_leases).values(expires_at=tomorrow))
        session.run(update(deliveries).values(due_at=tomorrow))
    peer.answer = always(TAKEN)
    assert Publisher(database, BrokerSettings(peer.url)).publish() == 2
