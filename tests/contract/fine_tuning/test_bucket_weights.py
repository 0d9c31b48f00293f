"""Base models in a bucket, as pods of jobs fetch them: what is asked of the store, and what follows where it has changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from llmariner.errors import Conflict
from llmariner.fine_tuning.base_weights import BaseWeights
from llmariner.fine_tuning.worker_tokens import Worker
from llmariner.models.tables import models
from llmariner.object_settings import S3Settings
from llmariner.platform.database import Database
from llmariner.settings import Secret
from llmariner.tenancy.principal import KeyOwner

from .desk import BASE
from .training_desk import TrainingDesk

NAMES = ["config.json", "model.safetensors", "README.md", *(f"step-{number}/config.json" for number in range(900))]
ENTRY = "<Contents><Key>model/{}</Key><Size>3</Size><ETag>&quot;1&quot;</ETag></Contents>"
LISTING = f"<ListBucketResult>{''.join(map(ENTRY.format, NAMES))}</ListBucketResult>".encode()


@dataclass
class Store:
    """One whose objects are all the same. `refused`: methods to which it says that one was replaced. `heads`: paths."""

    url: str = ""
    refused: set[str] = field(default_factory=set)
    heads: list[str] = field(default_factory=list)


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            made.heads.append(self.path)
            self._respond(3, b"")

        def do_GET(self) -> None:
            content = LISTING if "list-type" in self.path else b"abc"
            self._respond(len(content), content)

        def _respond(self, length: int, content: bytes) -> None:
            is_refused = self.command in made.refused
            self.send_response(412 if is_refused else 200)
            self.send_header("content-length", str(0 if is_refused else length))
            self.send_header("etag", '"1"')
            self.end_headers()
            self.wfile.write(b"" if is_refused else content)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def opened(database: Database, owner: KeyOwner, tmp_path: Path, store: Store) -> tuple[BaseWeights, Worker]:
    """The weights of a base model in the store, and the process of a job that reads them."""
    desk = TrainingDesk(database, owner, tmp_path)
    worker = desk.worker(desk.training(), 1)
    with database.write() as session:
        session.run(update(models).where(models.c.id == BASE).values(folder="s3://bucket/model"))
    settings = S3Settings(endpoint=store.url, access_key="key", secret_key=Secret("secret"))
    return BaseWeights(database, desk.registry, lambda: desk.objects, settings), worker


def test_a_replaced_object_is_a_conflict_before_the_response_begins(
    opened: tuple[BaseWeights, Worker], store: Store
) -> None:
    weights, worker = opened
    piece = weights.piece(worker, "config.json", 0, '"1"', signed=True)
    assert (piece.url, b"".join(piece.parts)) == (None, b"abc")
    for method in ("GET", "HEAD"):
        store.refused.add(method)
        with pytest.raises(Conflict, match="replaced") as raised:
            weights.piece(worker, "config.json", 0, '"1"', signed=True)
        assert raised.value.code == "weights_unavailable"


def test_of_a_folder_with_many_objects_those_are_asked_for_that_are_read(
    opened: tuple[BaseWeights, Worker], store: Store
) -> None:
    weights, worker = opened
    assert [each.path for each in weights.files(worker)] == NAMES[:2]
    assert store.heads == [f"/bucket/model/{name}" for name in NAMES[:2]]
