"""The database port: short transactions on SQLite or PostgreSQL, by SQLAlchemy Core.

Read and write sessions are different types, so that code with a read session cannot write. One `with` block is one
transaction; an exception rolls it back. Domain packages declare their tables on `metadata` and write statements. There is
no ORM: its import alone would double the cold start of a function.
"""

from __future__ import annotations

import atexit
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, MetaData, Row, Table, insert, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from llmariner.errors import TransactionConflict
from llmariner.platform.database.engines import create_database_engine
from llmariner.platform.database.errors import translate, translate_commit_error
from llmariner.settings import DatabaseSettings

__all__ = ["Database", "Duplicate", "ReadSession", "WriteSession", "metadata"]

Result = TypeVar("Result")

_ATTEMPTS = 3
_RETRY_SECONDS = 0.1

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Duplicate(Exception):
    """A row with that key exists already, or a foreign key refers to a row that does not exist."""


class ReadSession:
    """Statements in one read-only transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def connection(self) -> Connection:
        """The SQLAlchemy connection, for code that inspects the database itself; domain packages do not use it."""
        return self._connection

    def rows(self, statement: Executable) -> Sequence[Row[Any]]:
        """All rows."""
        return self._connection.execute(statement).all()

    def first(self, statement: Executable) -> Row[Any] | None:
        """The first row, or None."""
        return self._connection.execute(statement).first()

    def value(self, statement: Executable) -> Any:
        """The first column of the first row, or None."""
        return self._connection.execute(statement).scalar()

    def now(self) -> float:
        """Seconds since 1970 by the database's clock, which all processes share."""
        if self._connection.dialect.name == "sqlite":
            return time.time()
        return float(self._connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())

    def optimize_for_large_reads(self) -> None:
        """Tune this transaction for statements that read many rows.

        PostgreSQL would otherwise spend half the time on JIT compilation and spill tens of thousands of groups to disk.
        """
        if self._connection.dialect.name == "postgresql":
            self._connection.exec_driver_sql("SET LOCAL jit = off; SET LOCAL work_mem = '32MB'")


class WriteSession(ReadSession):
    """Statements in one transaction that may write."""

    def run(self, statement: Executable) -> int:
        """Execute a statement; returns the number of affected rows. Duplicate when a key exists."""
        try:
            return self._connection.execute(statement).rowcount
        except IntegrityError as error:
            raise Duplicate(str(error.orig)) from error

    def insert_if_absent(self, table: Table, rows: Sequence[dict[str, Any]]) -> int:
        """Insert the rows whose primary keys do not exist; returns the number of inserted rows."""
        # psycopg reports -1 for an insert unless the row count is requested.
        counted = self._insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        return sum(self.run(counted.values(row)) for row in rows)

    def insert_many_if_absent(self, table: Table, rows: Sequence[dict[str, Any]]) -> Sequence[Row[Any]]:
        """As `insert_if_absent`, in few statements for many rows; returns the primary keys of the inserted rows."""
        if not rows:
            return ()
        statement: Executable = self._insert(table).on_conflict_do_nothing().returning(*table.primary_key)
        return self._connection.execute(statement, rows).all()

    def upsert(self, table: Table, rows: Sequence[dict[str, Any]], *, accumulate: Collection[str] = ()) -> None:
        """Insert complete rows, in few statements.

        A row whose primary key exists overwrites the stored row, except for the columns `accumulate`, whose values are
        added.
        """
        if not rows:
            return
        statement = self._insert(table)
        changes = {
            column.name: column + statement.excluded[column.name]
            if column.name in accumulate
            else statement.excluded[column.name]
            for column in table.c
            if not column.primary_key
        }
        upsert = statement.on_conflict_do_update(index_elements=table.primary_key, set_=changes)
        # SQLAlchemy sends many rows in one statement only where the statement returns something.
        self._connection.execute(upsert.returning(literal_column("1")), rows).all()

    def add(self, table: Table, **values: Any) -> None:
        """Insert one row. Duplicate when its key exists."""
        self.run(insert(table).values(**values))

    def _insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        # Both dialects have ON CONFLICT, but SQLAlchemy has no common insert for them.
        return sqlite.insert(table) if self._connection.dialect.name == "sqlite" else postgresql.insert(table)


class Database:
    """The database at one URL; it connects on first use. Safe to share between threads."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.url = settings.url
        self.engine = create_database_engine(settings)
        self._on_close: list[Callable[[], None]] = []

    @contextmanager
    def read(self) -> Iterator[ReadSession]:
        """One read-only transaction. Unavailable when the database does not answer in time."""
        with self._connection() as connection, connection.begin():
            yield ReadSession(connection)

    @contextmanager
    def write(self) -> Iterator[WriteSession]:
        """One write transaction, committed when the block ends without an exception.

        Unavailable as `read`; TransactionConflict when the database aborts it in favor of another one.
        """
        with self._connection() as connection:
            writing = connection.execution_options(writing=True)
            ended = False
            try:
                with writing.begin():
                    yield WriteSession(writing)
                    ended = True
            except DBAPIError as error:
                if ended and (failure := translate_commit_error(error)) is not None:
                    raise failure from error
                raise

    def on_close(self, write: Callable[[], None]) -> None:
        """Call `write`, which must not raise, once before the connections close, at the latest when the process exits."""
        if not self._on_close:
            atexit.register(self.close)
        self._on_close.append(write)

    def transact(self, work: Callable[[WriteSession], Result]) -> Result:
        """Run `work` in one write transaction; retry twice at most when the database aborts it in favor of another one.

        `work` must have no side effects outside the database. TransactionConflict when the last attempt is aborted, too.
        """
        for attempt in range(1, _ATTEMPTS):
            try:
                with self.write() as session:
                    return work(session)
            except TransactionConflict:
                # The database may abort both sides of a deadlock: the jitter keeps them from colliding again.
                time.sleep(random.uniform(0, _RETRY_SECONDS * attempt))
        with self.write() as session:
            return work(session)

    def close(self) -> None:
        """Call the functions given to `on_close` and close every pooled connection."""
        atexit.unregister(self.close)
        writes, self._on_close = self._on_close, []
        for write in writes:
            write()
        self.engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except (DBAPIError, PoolTimeout, OverflowError) as error:
            if (failure := translate(error)) is None:
                raise
            raise failure from error
