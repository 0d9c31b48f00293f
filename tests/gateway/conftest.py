"""Platforms with scripted engines: one for most tests, one with narrow limits, and the database they start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.platform.database import Database
from llmariner.platform.database.migrate import upgrade
from llmariner.settings import DatabaseSettings

from .running_platform import Platform, running

_HERE = Path(__file__).parent
_SHORT_TIMEOUTS = frozenset({"narrow", "hurried"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a second's silence counts, nothing else may take the processor."""
    for item in items:
        if item.path.parent == _HERE and _SHORT_TIMEOUTS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.quiet)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema and nothing else, to be copied."""
    file = tmp_path_factory.mktemp("schema") / "platform.db"
    made = Database(DatabaseSettings(url=f"sqlite:///{file}"))
    upgrade(made)
    with made.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    made.close()
    return file


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    """The platform of most tests; each registers models of its own."""
    with running(tmp_path_factory.mktemp("platform"), database) as found:
        yield found


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    """A platform with a small waiting room, small limits and a short wait."""
    bounds = {"ROOM_PER_MODEL": "6", "ROOM_PER_TENANT": "3", "REQUESTS_PER_MINUTE": "6", "TOKENS_PER_MINUTE": "1000"}
    with running(tmp_path_factory.mktemp("narrow"), database, WAIT_SECONDS="1", **bounds) as found:
        yield found


@pytest.fixture(scope="session", params=["own", "uvicorn"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database: Path
) -> Iterator[Platform]:
    """A platform behind each of the servers that it may run on."""
    with running(tmp_path_factory.mktemp("served"), database, server=request.param) as found:
        yield found


@pytest.fixture(scope="session")
def hurried(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Platform]:
    """A platform with short timeouts for clients and engines, and a small body budget."""
    times = {"WRITE_TIMEOUT_SECONDS": "1", "ENGINE_SILENCE_SECONDS": "1", "ENGINE_LIMIT_SECONDS": "1.5"}
    room = {
        "ANSWER_BYTES": "10000000",
        "BODY_LIMIT": "2000000",
        "ROOM_BYTES": "5000000",
        "ROOM_BYTES_PER_TENANT": "3000000",
    }
    with running(tmp_path_factory.mktemp("hurried"), database, **times, **room) as found:
        yield found
