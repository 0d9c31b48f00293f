"""Connections to a Milvus, by address. pymilvus is imported with the first one."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmariner.platform.vectors import Collection, VectorIndexUnavailable
from llmariner.platform.vectors.schema import INDEXED_FIELDS, index_parameters, schema

if TYPE_CHECKING:
    from llmariner.vector_settings import VectorSettings

__all__ = ["Connection", "Connections", "SettingsSource"]

SettingsSource = Callable[["float | None"], "VectorSettings"]
"""Called before every operation; may start the server, or name a new address of it, within some seconds (None: any)."""

_CONNECT_SECONDS = 5.0
_EXIT_SECONDS = 0.1
"""Between the end of a killed server's connections and of its process."""


class Connections:
    """The one connection that all threads share, made again where the settings name another address.

    `deadline`s are of `time.monotonic()`, None: without. Past one, everything raises VectorIndexUnavailable.
    """

    def __init__(self, settings: SettingsSource) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._failed_at = -math.inf

    def current(self, deadline: float | None) -> Connection:
        """The connection. VectorIndexUnavailable if the server can't be reached."""
        began = time.monotonic()
        settings = self._settings(_left(deadline))
        _acquire(self._lock, deadline)
        try:
            connection = self._connection
            if connection is not None and connection.settings == settings:
                return connection
            if self._failed_at > began:
                # The threads that waited for this attempt would each try for as long again, one after the other.
                raise VectorIndexUnavailable("The vector index can't be reached.")
            self._connection = None
            if connection is not None:
                connection.close()
            try:
                self._connection = Connection(settings, deadline)
            except VectorIndexUnavailable:
                self._failed_at = time.monotonic()
                raise
            return self._connection
        finally:
            self._lock.release()

    def has_moved(self, connection: Connection, deadline: float | None) -> bool:
        """Whether the server of a connection that failed is to be found elsewhere by now."""
        if not connection.closed:
            time.sleep(_EXIT_SECONDS)
        return connection.closed or self._settings(_left(deadline)) != connection.settings

    def close(self) -> None:
        """Close the connection. Later calls open another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Connection:
    """A client, and which collections it has prepared. Raises VectorIndexUnavailable if the server does not answer."""

    def __init__(self, settings: VectorSettings, deadline: float | None) -> None:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        # It logs every error with its trace, and a warning per iterator; errors are raised to the caller too.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.settings = settings
        self.closed = False
        self._prepared: set[str] = set()
        self._lock = threading.Lock()
        try:
            self.client = MilvusClient(
                settings.uri,
                token=settings.token.reveal(),
                db_name=settings.database,
                timeout=min(self.seconds(deadline), _CONNECT_SECONDS),
                dedicated=True,
                **_tls(settings),
            )
        except MilvusException as error:
            raise VectorIndexUnavailable(f"The vector index can't be reached: {error.message}") from error

    def seconds(self, deadline: float | None) -> float:
        """How long the next call may take."""
        left = _left(deadline)
        return self.settings.seconds if left is None else min(left, self.settings.seconds)

    def open(self, name: str, collection: Collection, *, create: bool, deadline: float | None) -> bool:
        """Prepare a collection: create it where asked, complete its indexes, load it. False if there is none."""
        if name in self._prepared:
            return True
        _acquire(self._lock, deadline)
        try:
            if name in self._prepared:
                return True
            if not self.client.has_collection(name, timeout=self.seconds(deadline)):
                if not create:
                    return False
                self._create(name, collection, deadline)
            self._complete(name, deadline)
            # Milvus Lite releases all collections when it starts.
            self.client.load_collection(name, timeout=self.seconds(deadline))
            self._prepared.add(name)
            return True
        finally:
            self._lock.release()

    def forget(self, name: str) -> None:
        """Prepare the collection again at its next use."""
        self._prepared.discard(name)

    def close(self) -> None:
        """Close the client. Calls of other threads that use it raise ValueError or MilvusException."""
        self.closed = True
        self.client.close()

    def _create(self, name: str, collection: Collection, deadline: float | None) -> None:
        from pymilvus.exceptions import MilvusException

        made = schema(collection)
        try:
            self.client.create_collection(name, schema=made, consistency_level="Strong", timeout=self.seconds(deadline))
        except MilvusException:
            # Another process may have created it in the meantime.
            if not self.client.has_collection(name, timeout=self.seconds(deadline)):
                raise

    def _complete(self, name: str, deadline: float | None) -> None:
        """Create the indexes that are missing: a process may have been killed after it created the collection."""
        present = set(self.client.list_indexes(name, timeout=self.seconds(deadline)))
        for field in INDEXED_FIELDS:
            if field not in present:
                parameters = index_parameters(field, self.settings.index_type)
                self.client.create_index(name, parameters, timeout=self.seconds(deadline))


def _left(deadline: float | None) -> float | None:
    """Seconds up to a deadline. VectorIndexUnavailable past it."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise VectorIndexUnavailable("The vector index did not answer in time.")
    return left


def _acquire(lock: threading.Lock, deadline: float | None) -> None:
    left = _left(deadline)
    if not lock.acquire(timeout=-1 if left is None else left):
        raise VectorIndexUnavailable("The vector index did not answer in time.")


def _tls(settings: VectorSettings) -> dict[str, Any]:
    if not settings.uri.startswith("https:"):
        return {}
    options: dict[str, Any] = {"secure": True, "server_name": settings.server_name}
    if settings.client_certificate_file:
        return {
            **options,
            "ca_pem_path": settings.ca_file,
            "client_pem_path": settings.client_certificate_file,
            "client_key_path": settings.client_key_file,
        }
    return {**options, "server_pem_path": settings.ca_file}
