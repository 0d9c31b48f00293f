"""Which replica holds which connections of agents, in the database, so that every replica reaches every cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import delete, select, update

from llmariner.platform.database import Database, WriteSession
from llmariner.sessions.tables import tunnel_connections

__all__ = ["LEASE_SECONDS", "ConnectionLeases"]

LEASE_SECONDS = 30.0
_MAX_BATCH = 500
_MAX_PEERS = 16
# A lease that expired while its replica could not renew it counts again when it can. No connection lives longer than this.
_REMOVE_SECONDS = 3600.0


class ConnectionLeases:
    """The leases of one installation. Synchronous; call it in a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, connection_id: str, cluster_id: str, replica_url: str) -> None:
        """A connection was opened. Removes leases of the cluster that ended long ago."""
        now = time.time()

        def store(session: WriteSession) -> None:
            mine = tunnel_connections.c.cluster_id == cluster_id
            session.run(delete(tunnel_connections).where(mine, tunnel_connections.c.expires_at < now - _REMOVE_SECONDS))
            session.add(
                tunnel_connections,
                id=connection_id,
                cluster_id=cluster_id,
                replica_url=replica_url,
                expires_at=now + LEASE_SECONDS,
            )

        self._database.transact(store)

    def renew(self, connection_ids: Sequence[str]) -> None:
        """The connections are still open."""

        def store(session: WriteSession) -> None:
            for first in range(0, len(connection_ids), _MAX_BATCH):
                batch = tunnel_connections.c.id.in_(connection_ids[first : first + _MAX_BATCH])
                session.run(update(tunnel_connections).where(batch).values(expires_at=time.time() + LEASE_SECONDS))

        self._database.transact(store)

    def remove(self, connection_id: str) -> None:
        """A connection was closed. Idempotent."""
        self._database.transact(
            lambda session: session.run(delete(tunnel_connections).where(tunnel_connections.c.id == connection_id))
        )

    def replicas(self, cluster_id: str) -> list[str]:
        """The addresses of replicas with a connection of the cluster, at most `_MAX_PEERS`."""
        live = (tunnel_connections.c.cluster_id == cluster_id, tunnel_connections.c.expires_at > time.time())
        query = select(tunnel_connections.c.replica_url).where(*live).distinct().limit(_MAX_PEERS)
        with self._database.read() as session:
            return [str(row.replica_url) for row in session.rows(query)]
