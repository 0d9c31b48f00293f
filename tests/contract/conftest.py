"""The database port's two adapters: every test of this folder runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import importlib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import llmariner
from llmariner.models.registry import ModelRegistry
from llmariner.platform.database import Database, metadata
from llmariner.platform.database.migrate import upgrade
from llmariner.platform.events.deliveries import Deliveries
from llmariner.platform.vectors import VectorIndex
from llmariner.platform.vectors.milvus import MilvusIndex
from llmariner.settings import DatabaseSettings, Secret
from llmariner.standalone.milvus_lite.process import MilvusLiteProcess
from llmariner.tenancy.keys.store import KeyOwner, Keys
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner
from llmariner.tenancy.tables import organizations, projects, users
from llmariner.usage.ledger import Ledger

from .postgres import NoPostgres, running
from .team import Team

NewUrl = Callable[[], str]


def pytest_configure() -> None:
    """Register every table on `metadata` by importing its module."""
    package = Path(llmariner.__file__).parent
    for file in sorted(package.rglob("tables.py")):
        importlib.import_module(".".join(("llmariner", *file.relative_to(package).with_suffix("").parts)))
    importlib.import_module("llmariner.platform.database.revisions")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """`user@host:port` of the session's server."""
    try:
        with running() as address:
            yield address
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NewUrl:
    """Creates an empty database with each call, and returns its URL."""
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("databases")
        return lambda: f"sqlite:///{folder / uuid.uuid4().hex}.db"
    address = request.getfixturevalue("postgres")

    def make() -> str:
        name = f"contract_{uuid.uuid4().hex}"  # this may be made again, the server is not
        with psycopg.connect(f"postgresql://{address}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://{address}/{name}"

    return make


@pytest.fixture(scope="session")
def installed(new_url: NewUrl) -> Iterator[Database]:
    """One database with the schema for all tests; `database` empties it."""
    database = Database(DatabaseSettings(new_url()))
    upgrade(database)
    yield database
    database.close()


@pytest.fixture
def database(installed: Database) -> Database:
    """A database with the schema and no rows except the one of the migrations."""
    with installed.write() as session:
        for table in reversed(metadata.sorted_tables):
            session.run(table.delete())
        session.add(metadata.tables["ledger_floor"], id=1, admitted_at=0)
    return installed


@pytest.fixture
def new_database(new_url: NewUrl) -> Iterator[Callable[[], Database]]:
    """Creates databases without a schema."""
    made: list[Database] = []

    def make() -> Database:
        made.append(Database(DatabaseSettings(new_url())))
        return made[-1]

    yield make
    for database in made:
        database.close()


@pytest.fixture
def owner(database: Database) -> KeyOwner:
    """The administrator of the default project."""
    return ensure_first_owner(database)


@pytest.fixture
def other_owner(database: Database, owner: KeyOwner) -> KeyOwner:
    """The owner of another project in another organization."""
    with database.write() as session:
        session.add(users, id="user_2", email="eve@example.org", created_at=1)
        session.add(organizations, id="org_2", title="Others", is_default=False, created_at=1)
        session.add(projects, id="proj_2", organization_id="org_2", title="Theirs", is_default=False, created_at=1)
    return KeyOwner("user_2", "proj_2", "org_2")


@pytest.fixture
def keys(database: Database) -> Keys:
    return Keys(database, Secret("p" * 32))


@pytest.fixture
def team(database: Database, owner: KeyOwner) -> Team:
    """The stores of organizations, and the administrator as caller."""
    return Team(database, owner)


@pytest.fixture
def registry(database: Database) -> ModelRegistry:
    return ModelRegistry(database)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database)


@pytest.fixture
def deliveries(database: Database) -> Deliveries:
    """Deliveries without subscribers."""
    return Deliveries(database, ())


@pytest.fixture
def run_concurrently() -> Callable[[Iterable[Callable[[], Any]]], list[Any]]:
    """Runs calls in threads that start together; returns what each returned, or the exception it raised."""

    def run(calls: Iterable[Callable[[], Any]]) -> list[Any]:
        work = list(calls)
        barrier = threading.Barrier(len(work))
        results: list[Any] = [None] * len(work)

        def one(index: int) -> None:
            barrier.wait(30)
            try:
                results[index] = work[index]()
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(work))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results

    return run


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorIndex]:
    """The vector index of this session's own Milvus Lite server. Tests keep apart by their tenants."""
    folder = tmp_path_factory.mktemp("vectors")
    server = MilvusLiteProcess(folder / "milvus", folder / "milvus-lite.log")
    index = MilvusIndex(server.settings)
    yield index
    index.close()
    server.close()
