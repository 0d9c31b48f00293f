"""The cluster's database, run locally.

PostgreSQL runs by its start script, PgBouncer by the generated configuration; two concurrent migrations go through both.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import yaml
from sqlalchemy import text

from llmariner.context import Context
from llmariner.errors import Unavailable
from llmariner.installation.migrations import migrate
from llmariner.installation.retry import RetryLater
from llmariner.installation.secret_objects import SecretObjects
from llmariner.installation.secrets import ensure_secrets
from llmariner.platform.database import Database
from llmariner.platform.database.schema import schema_mismatch
from llmariner.settings import DatabaseSettings
from llmariner.tenancy.keys.secrets import digest, new_secret
from llmariner.tenancy.organizations.bootstrap import ensure_first_owner

CHECKOUT = Path(__file__).parents[2]
START = CHECKOUT / "manifests/components/postgres/start.sh"
AS_ROOT = os.geteuid() == 0
SECONDS = 60


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the database's user may enter and write."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed")
    place = Path(tempfile.mkdtemp(prefix="llmariner-cluster-database-"))
    if AS_ROOT:
        shutil.chown(place, "postgres", "postgres")
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def made(secret_objects: SecretObjects) -> dict[str, Mapping[str, str]]:
    """The Secrets that the Job creates for the platform's own database."""
    ensure_secrets(secret_objects, postgres_host="127.0.0.1")
    found = {name: secret_objects.get(f"llmariner-{name}") for name in ("postgres", "pgbouncer", "database", "secrets")}
    return {name: each.values for name, each in found.items() if each is not None}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, port: int, ending: signal.Signals, env: Mapping[str, str]) -> Iterator[None]:
    """A process that listens on a port of loopback."""
    user = "postgres" if AS_ROOT else None
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, user=user, cwd="/", stdout=written, stderr=subprocess.STDOUT, env={**os.environ, **env}
        )
    try:
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"{command[0]} does not start: {log.read_text()[-2000:]}")
        yield
    finally:
        process.send_signal(ending)
        process.wait(SECONDS)


@contextmanager
def postgres(folder: Path, secret: Mapping[str, str]) -> Iterator[int]:
    """The start script, as the pod runs it; yields the port."""
    port = free_port()
    env = {
        "PGDATA": str(folder / "pgdata"),
        "PGHOST": str(folder),
        "PGPORT": str(port),
        **{f"POSTGRES_{name}": secret[key] for name, key in OF_SECRET.items()},
    }
    command = ["/bin/sh", "-eu", str(START), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    # As the pod's preStop ends it.
    with running(command, folder / "postgres.log", port, signal.SIGINT, env):
        yield port


OF_SECRET = {"OWNER": "user", "PASSWORD": "password", "DATABASE": "database"}


@contextmanager
def pgbouncer(folder: Path, secret: Mapping[str, str], postgres_port: int) -> Iterator[int]:
    """PgBouncer with the Secret's files, but for addresses and places; yields the port."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    text = secret["pgbouncer.ini"]
    for pattern, here in {
        r"listen_addr = \*": "listen_addr = 127.0.0.1",
        "listen_port = 6432": f"listen_port = {port}",
        "/etc/pgbouncer/": f"{folder}/",
        "port='5432'": f"port='{postgres_port}'",
    }.items():
        text, changed = re.subn(pattern, here, text)
        assert changed == 1, pattern
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "userlist.txt").write_text(secret["userlist.txt"])
    command = [program, str(folder / "pgbouncer.ini")]
    with running(command, folder / "pgbouncer.log", port, signal.SIGTERM, {}):
        yield port


def connected(port: int, secret: Mapping[str, str], password: str | None = None) -> psycopg.Connection[object]:
    """A connection; the port is open a moment before the server lets anybody in."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return psycopg.connect(
                host="127.0.0.1",
                port=port,
                user=secret["user"],
                password=password or secret["password"],
                dbname=secret["database"],
                prepare_threshold=None,
                connect_timeout=10,
            )
        except psycopg.OperationalError as error:
            if "starting up" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_the_manifest_provides_what_the_script_needs() -> None:
    documents = yaml.safe_load_all((CHECKOUT / "manifests/components/postgres/postgres.yaml").read_text())
    (owner,) = [each for each in documents if each["kind"] == "StatefulSet"]
    (container,) = owner["spec"]["template"]["spec"]["containers"]
    asked = set(re.findall(r"\$(PG[A-Z]+)|getenv \w+ (\w+)", START.read_text()))
    names = {first or second for first, second in asked}
    assert names == {each["name"] for each in container["env"]}
    reported = {e["name"]: e["valueFrom"]["secretKeyRef"]["key"] for e in container["env"] if "valueFrom" in e}
    assert reported == {f"POSTGRES_{name}": key for name, key in OF_SECRET.items()}


@pytest.mark.postgres
def test_postgres_keeps_its_data_and_accepts_a_new_password(folder: Path, made: dict[str, Mapping[str, str]]) -> None:
    secret = made["postgres"]
    with postgres(folder, secret) as port, connected(port, secret) as connection:
        connection.execute("CREATE TABLE kept (x int)")
    with postgres(folder, {**secret, "password": 'it\'s "new"'}) as port:
        with connected(port, secret, 'it\'s "new"') as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False,
            )
        with pytest.raises(psycopg.OperationalError, match="password"):
            connected(port, secret)
    # The first that fits a caller's address counts, and only those of other machines can be tested from here.
    said = [line.split() for line in (folder / "pgdata/pg_hba.conf").read_text().splitlines()]
    assert {line[-1] for line in said if line and line[0].startswith("host")} == {"scram-sha-256"}


@pytest.mark.postgres
def test_an_interrupted_start_begins_from_scratch(folder: Path, made: dict[str, Mapping[str, str]]) -> None:
    (folder / "pgdata.new").mkdir()
    (folder / "pgdata.new/PG_VERSION").write_text("half")
    if AS_ROOT:
        shutil.chown(folder / "pgdata.new", "postgres", "postgres")
    with postgres(folder, made["postgres"]) as port:
        connected(port, made["postgres"]).close()


@pytest.mark.postgres
def test_two_concurrent_installers_migrate_through_pgbouncer(folder: Path, made: dict[str, Mapping[str, str]]) -> None:
    secret = new_secret()
    (folder / "key").write_text(secret)
    with postgres(folder, made["postgres"]) as server, pgbouncer(folder, made["pgbouncer"], server) as port:
        url = made["database"]["LLMARINER_DATABASE_URL"].replace("@pgbouncer:5432", f"@127.0.0.1:{port}")
        environment = {"LLMARINER_DATABASE_URL": url, **made["secrets"]}
        reported = "".join(installers(environment, folder / "key"))
        context = Context(environment)
        assert schema_mismatch(context.database) is None
        assert reported.count("first key") == 1
        owner = ensure_first_owner(context.database)
        (key,) = context.keys.of_project(owner)
        assert key.digest == digest(context.secrets.pepper, secret)
        # Revoked, it stays so whatever is run again.
        context.keys.revoke(owner, key.id)
        assert "first key" not in "".join(installers(environment, folder / "key"))
        assert context.keys.of_project(owner) == []
        sessions_beyond_its_connections(context)
        limits_of_time_hold(context)
        context.database.close()


def installers(environment: Mapping[str, str], key: Path) -> list[str]:
    """The output of three concurrent Jobs."""
    command = [sys.executable, "-m", "llmariner.installation", "migrations", f"--first-key={key}"]
    env = {**os.environ, **environment}
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    return said


def sessions_beyond_its_connections(context: Context) -> None:
    """Clients that hold their connection, five times as many as PgBouncer has of PostgreSQL."""
    others = [Context(context.env) for _ in range(100)]
    for other in others:
        assert schema_mismatch(other.database) is None
    for other in others:
        other.database.close()


@pytest.mark.postgres
def test_a_client_of_pgbouncer_does_not_wait_long_for_a_connection(
    folder: Path, made: dict[str, Mapping[str, str]]
) -> None:
    text_ = made["pgbouncer"]["pgbouncer.ini"]
    for said, here in (("pool_size = 20", "pool_size = 1"), ("pool_size = 5", "pool_size = 0"), ("= 10\n", "= 1\n")):
        assert text_.count(said) == 1
        text_ = text_.replace(said, here)
    secret = {**made["pgbouncer"], "pgbouncer.ini": text_}
    with postgres(folder, made["postgres"]) as server, pgbouncer(folder, secret, server) as port:
        connected(port, made["postgres"]).close()
        url = made["database"]["LLMARINER_DATABASE_URL"].replace("@pgbouncer:5432", f"@127.0.0.1:{port}")
        first, second = Database(DatabaseSettings(url)), Database(DatabaseSettings(url))
        with first.read():
            began = time.monotonic()
            with pytest.raises(Unavailable) as refused, second.read():
                pass
            assert time.monotonic() - began < 30
        assert refused.value.headers["retry-after"] == "2"
        for database in (first, second):
            with database.read() as session:
                assert session.value(text("SELECT 1")) == 1
            database.close()


def limits_of_time_hold(context: Context) -> None:
    """In each transaction, and in none of the next client of the server's connection."""
    with context.database.read() as session:
        assert session.value(text("SHOW statement_timeout")) == "30s"
    with context.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar() == "0"


def test_the_installer_waits_for_a_database_that_is_down() -> None:
    url = f"postgresql+psycopg://u:p@127.0.0.1:{free_port()}/d"
    context = Context(
        {"LLMARINER_DATABASE_URL": url, "LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32}
    )
    with pytest.raises(RetryLater, match="does not answer"):
        migrate(context)
