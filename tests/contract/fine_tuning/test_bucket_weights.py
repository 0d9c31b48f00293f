"""Base models in a bucket: an object that is replaced while a pod fetches it ends the fetch, which then lists again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.errors import Conflict
from llmariner.fine_tuning.base_weights import BaseWeights
from llmariner.models.tables import models
from llmariner.object_settings import S3Settings
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.principal import KeyOwner

from .desk import BASE
from .training_desk import TrainingDesk


@pytest.fixture
def store() -> Iterator[tuple[str, set[str]]]:
    """The URL of a store with one object, and the methods to which it answers that the object was replaced."""
    refused: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._respond()

        def do_GET(self) -> None:
            self._respond()

        def _respond(self) -> None:
            self.send_response(412 if self.command in refused else 200)
            self.send_header("content-length", "0" if self.command in refused else "3")
            self.send_header("etag", '"1"')
            self.end_headers()
            if self.command == "GET" and "GET" not in refused:
                self.wfile.write(b"abc")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", refused
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_replaced_object_is_a_conflict_before_the_response_begins(
    database: Database, owner: KeyOwner, tmp_path: Path, store: tuple[str, set[str]]
) -> None:
    url, refused = store
    desk = TrainingDesk(database, owner, tmp_path)
    worker = desk.worker(desk.training(), 1)
    with database.write() as session:
        session.run(update(models).where(models.c.id == BASE).values(folder="s3://bucket/model"))
    settings = S3Settings(endpoint=url, access_key="key", secret_key=Secret("secret"))
    weights = BaseWeights(database, desk.registry, lambda: desk.objects, settings)
    piece = weights.piece(worker, "config.json", 0, '"1"', signed=True)
    assert (piece.url, b"".join(piece.parts)) == (None, b"abc")
    for method in ("GET", "HEAD"):
        refused.add(method)
        with pytest.raises(Conflict, match="replaced") as raised:
            weights.piece(worker, "config.json", 0, '"1"', signed=True)
        assert raised.value.code == "weights_unavailable"
