"""The store of clusters: registered, listed, drained, deleted, and their keys rotated and revoked.

A cluster on which work runs is deleted only with `drain`: it gets no new work from then on, and is deleted once its agent
reports that none is left, or is gone for good.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from llmariner.clusters.cluster import Cluster, cluster_from_row, new_cluster_id, validate_name
from llmariner.clusters.events import CREATED, DELETED, UPDATED
from llmariner.clusters.stored import is_visible, lock_changeable, record_change, visible_cluster
from llmariner.clusters.tables import cluster_configs, cluster_statuses, clusters
from llmariner.errors import Conflict, InvalidRequest
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.settings import Secret
from llmariner.tenancy.keys.secrets import digest, mask, new_registration_key
from llmariner.tenancy.principal import Caller

__all__ = ["DEFAULT_OVERLAP_SECONDS", "MAX_OVERLAP_SECONDS", "Clusters", "delete_rows", "runs_work"]

_MAX_CLUSTERS = 1000
DEFAULT_OVERLAP_SECONDS = 3600
MAX_OVERLAP_SECONDS = 30 * 86400
# An agent that is away for longer takes its work with it.
_GONE_SECONDS = 1800.0
_BATCH = 100


class Clusters:
    """The clusters of one installation. `operator`: the actor runs the installation and may change its own cluster."""

    def __init__(self, database: Database, pepper: Secret) -> None:
        self._database = database
        self._pepper = pepper

    def register(self, actor: Caller, name: str) -> tuple[Cluster, str]:
        """Register a cluster of the actor's organization; returns it with its registration key, which is not stored.

        Conflict if the organization has one of that name, InvalidRequest at the maximum number of clusters.
        """
        name, key, now = validate_name(name), new_registration_key(), int(time.time())
        row = {"id": new_cluster_id(), "organization_id": actor.organization_id, "name": name, "created_at": now}

        def store(session: WriteSession) -> Cluster:
            own = clusters.c.organization_id == actor.organization_id
            if session.value(select(func.count()).select_from(clusters).where(own)) >= _MAX_CLUSTERS:
                raise InvalidRequest(f"An organization has at most {_MAX_CLUSTERS} clusters: unregister one first.")
            try:
                session.add(clusters, **row, **self._key_columns(key, now))
            except Duplicate as error:
                raise Conflict(
                    f"A cluster named '{name}' is registered already; choose another name, or make a new key for it with "
                    "POST /v1/clusters/{id}:rotateKey.",
                    param="name",
                    code="cluster_exists",
                ) from error
            found = visible_cluster(session, actor.organization_id, str(row["id"]))
            record_change(session, actor, found, CREATED, {"data": {"name": name}})
            return found

        return self._database.transact(store), key

    def page(self, organization_id: str, *, after: str | None, limit: int) -> tuple[list[Cluster], bool]:
        """The clusters that an organization sees, oldest first and the control plane's last, and whether more follow."""
        query = select(clusters).where(is_visible(organization_id))
        if after is not None:
            query = query.where(clusters.c.id > after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(clusters.c.id).limit(limit + 1))
        return [cluster_from_row(row) for row in rows[:limit]], len(rows) > limit

    def get(self, organization_id: str, cluster_id: str) -> Cluster:
        """A cluster that an organization sees. NotFound otherwise."""
        with self._database.read() as session:
            return visible_cluster(session, organization_id, cluster_id)

    def visible_ids(self, organization_id: str, cluster_ids: Collection[str]) -> frozenset[str]:
        """Those of the clusters that an organization sees."""
        query = select(clusters.c.id).where(clusters.c.id.in_(sorted(cluster_ids)), is_visible(organization_id))
        with self._database.read() as session:
            return frozenset(row.id for row in session.rows(query))

    def rotate_key(self, actor: Caller, cluster_id: str, *, overlap: int, operator: bool) -> tuple[Cluster, str]:
        """Give a cluster a new registration key, which is returned only here; the old one works `overlap` more seconds."""
        if not 0 <= overlap <= MAX_OVERLAP_SECONDS:
            raise InvalidRequest(
                f"'overlap_seconds' must be 0 to {MAX_OVERLAP_SECONDS}.", param="overlap_seconds", code="out_of_range"
            )
        key = new_registration_key()

        def store(session: WriteSession) -> Cluster:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            current, now = session.value(select(clusters.c.digest).where(clusters.c.id == cluster_id)), time.time()
            kept = overlap > 0 and current is not None
            values = self._key_columns(key, int(now)) | {
                "previous_digest": current if kept else None,
                "previous_expires_at": now + overlap if kept else None,
            }
            return _change(session, actor, cluster, values, registration_key="rotated", overlap_seconds=overlap)

        return self._database.transact(store), key

    def revoke_key(self, actor: Caller, cluster_id: str, *, operator: bool) -> Cluster:
        """Make every registration key of a cluster invalid: its agent is out within seconds. Idempotent."""
        names = ("digest", "previous_digest", "previous_expires_at", "key_prefix", "key_created_at")

        def store(session: WriteSession) -> Cluster:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            return _change(session, actor, cluster, dict.fromkeys(names), registration_key="revoked")

        return self._database.transact(store)

    def set_drain(self, actor: Caller, cluster_id: str, *, drain: bool, operator: bool) -> Cluster:
        """Place no new work on a cluster, or (`drain` False) place it there again. Idempotent.

        The latter takes a request to delete it back, too.
        """

        def store(session: WriteSession) -> Cluster:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            since = (cluster.drain_requested_at or int(time.time())) if drain else None
            values = {"drain_requested_at": since} | ({} if drain else {"delete_requested_at": None})
            return _change(session, actor, cluster, values, drain=drain)

        return self._database.transact(store)

    def delete(self, actor: Caller, cluster_id: str, *, drain: bool, operator: bool) -> Cluster | None:
        """Unregister a cluster; its agent is out within seconds. Returns it where it is drained first, else None.

        Conflict for the control plane's own, and, without `drain`, while work runs there.
        """

        def remove(session: WriteSession) -> Cluster | None:
            cluster = lock_changeable(session, actor, cluster_id, operator=operator)
            if cluster.is_local:
                raise Conflict(
                    "The control plane runs on this cluster, which therefore can't be unregistered.",
                    code="local_cluster",
                )
            if not (running := runs_work(session, cluster_id)):
                delete_rows(session, cluster_id)
                record_change(session, actor, cluster, DELETED, {})
                return None
            if not drain:
                raise Conflict(
                    f"{running} pods of the platform's work run on this cluster: end them, or drain the cluster first "
                    "(`?drain=true`), which unregisters it once they have ended.",
                    code="cluster_in_use",
                )
            now = int(time.time())
            values = {"drain_requested_at": cluster.drain_requested_at or now, "delete_requested_at": now}
            return _change(session, actor, cluster, values, drain=True, delete=True)

        return self._database.transact(remove)

    def finish_deletions(self) -> int:
        """Delete clusters that were to be drained first and run nothing any more; returns how many. Idempotent."""
        due = select(clusters).where(clusters.c.delete_requested_at.is_not(None)).limit(_BATCH)
        with self._database.read() as session:
            waiting = [row.id for row in session.rows(due.order_by(clusters.c.delete_requested_at))]
        return sum(self._database.transact(partial(_finish, cluster_id=each)) for each in waiting)

    def _key_columns(self, key: str, now: int) -> dict[str, Any]:
        return {"digest": digest(self._pepper, key), "key_prefix": mask(key), "key_created_at": now}


def runs_work(session: ReadSession, cluster_id: str) -> int:
    """How many pods of the platform's work run on a cluster, as its agent has reported within half an hour."""
    c = cluster_statuses.c
    fresh = select(c.workloads).where(c.cluster_id == cluster_id, c.heartbeat_at > time.time() - _GONE_SECONDS)
    return int(session.value(fresh) or 0)


def delete_rows(session: WriteSession, cluster_id: str) -> None:
    """Delete a cluster with what its agent reported. Telemetry stays."""
    for table in (cluster_statuses, cluster_configs):
        session.run(delete(table).where(table.c.cluster_id == cluster_id))
    session.run(delete(clusters).where(clusters.c.id == cluster_id))


def _finish(session: WriteSession, cluster_id: str) -> int:
    requested = select(clusters).where(clusters.c.id == cluster_id, clusters.c.delete_requested_at.is_not(None))
    row: Row[Any] | None = session.first(requested.with_for_update())
    if row is None or runs_work(session, cluster_id):
        return 0
    delete_rows(session, cluster_id)
    record_change(session, None, cluster_from_row(row), DELETED, {})
    return 1


def _change(
    session: WriteSession, actor: Caller, cluster: Cluster, values: dict[str, Any], **requested: Any
) -> Cluster:
    session.run(update(clusters).where(clusters.c.id == cluster.id).values(**values))
    found = visible_cluster(session, actor.organization_id, cluster.id)
    record_change(session, actor, found, UPDATED, {"changes_requested": requested})
    return found
