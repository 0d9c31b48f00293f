"""A connection that breaks while a transaction is committed: the error says what is certain."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url, select

from llmariner.errors import Unavailable
from llmariner.platform.database import Database
from llmariner.platform.database.revisions import revisions
from llmariner.settings import DatabaseSettings


class BreakingProxy:
    """A proxy to a server that breaks, once `armed`, at a statement of the client: after the response to it, or before."""

    def __init__(self, address: tuple[str, int], word: bytes, *, heard: bool) -> None:
        self._address, self._word, self._heard = address, word, heard
        self.armed = False
        self._answered = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._address) as server:
            silent = threading.Event()
            threading.Thread(target=self._answer, args=(server, client, silent), daemon=True).start()
            while said := client.recv(65536):
                if self.armed and self._word in said:
                    silent.set()
                    if self._heard:
                        server.sendall(said)
                        self._answered.wait(10)
                    break
                server.sendall(said)
            for end in (client, server):
                with contextlib.suppress(OSError):  # it ended by itself
                    end.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket, silent: threading.Event) -> None:
        try:
            while said := server.recv(65536):
                if silent.is_set():
                    self._answered.set()
                else:
                    client.sendall(said)
        except OSError:
            pass  # either end disconnected


@pytest.fixture
def server(database: Database) -> tuple[str, int]:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("there is no connection to SQLite that could break")
    url = make_url(database.url)
    return str(url.host), int(url.port or 0)


@pytest.fixture
def through(database: Database, server: tuple[str, int], request: pytest.FixtureRequest) -> Iterator[Database]:
    word, heard = request.param
    way = BreakingProxy(server, word, heard=heard)
    made = Database(DatabaseSettings(make_url(database.url).set(port=way.port).render_as_string(hide_password=False)))
    with made.read():
        pass  # the driver commits, too, when it connects first
    way.armed = True
    yield made
    made.close()
    way.close()


def write_one(database: Database) -> None:
    with database.write() as session:
        session.add(revisions, name="a", value=7)


def stored(database: Database) -> bool:
    with database.read() as session:
        return session.first(select(revisions).where(revisions.c.name == "a")) is not None


@pytest.mark.parametrize(
    ("through", "there"),
    [((b"COMMIT", True), True), ((b"COMMIT", False), False)],
    ids=["committed", "lost"],
    indirect=["through"],
)
def test_an_unknown_outcome_is_not_reported_as_unchanged(through: Database, there: bool, database: Database) -> None:
    with pytest.raises(Unavailable, match="may have been made or not") as failed:
        write_one(through)
    assert (failed.value.code, failed.value.headers) == ("outcome_unknown", {"x-should-retry": "false"})
    assert stored(database) is there


@pytest.mark.parametrize("through", [(b"INSERT", True)], indirect=True)
def test_a_connection_lost_before_the_commit_changed_nothing(through: Database, database: Database) -> None:
    with pytest.raises(Unavailable, match="Nothing was changed"):
        write_one(through)
    assert not stored(database)
