"""The store of clusters: registered, listed, drained, deleted, and their keys rotated and revoked.

A cluster is an organization's, but for the one of the control plane, which all organizations see and only the owners of the
default organization change.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update

from llmariner.audit import log
from llmariner.clusters.cluster import Cluster, cluster_from_row, new_cluster_id, validate_name
from llmariner.clusters.events import CREATED, DELETED, UPDATED
from llmariner.clusters.tables import clusters
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.platform.database import Database, Duplicate, ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.settings import Secret
from llmariner.tenancy.keys.secrets import digest, mask, new_registration_key
from llmariner.tenancy.principal import Caller

__all__ = ["DEFAULT_OVERLAP_SECONDS", "MAX_OVERLAP_SECONDS", "Clusters"]

_MAX_CLUSTERS = 1000
DEFAULT_OVERLAP_SECONDS = 3600
MAX_OVERLAP_SECONDS = 30 * 86400


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
                    f"POST /v1/clusters/{{id}}:rotateKey.",
                    param="name",
                    code="cluster_exists",
                ) from error
            found = _load(session, clusters.c.id == row["id"], str(row["id"]))
            _record(session, actor, found, CREATED, {"data": {"name": name}})
            return found

        return self._database.transact(store), key

    def page(self, organization_id: str, *, after: str | None, limit: int) -> tuple[list[Cluster], bool]:
        """The clusters that an organization sees, oldest first and the control plane's last, and whether more follow."""
        query = select(clusters).where(_visible(organization_id))
        if after is not None:
            query = query.where(clusters.c.id > after)
        with self._database.read() as session:
            rows = session.rows(query.order_by(clusters.c.id).limit(limit + 1))
        return [cluster_from_row(row) for row in rows[:limit]], len(rows) > limit

    def get(self, organization_id: str, cluster_id: str) -> Cluster:
        """A cluster that an organization sees. NotFound otherwise."""
        with self._database.read() as session:
            return _load(session, _visible(organization_id), cluster_id)

    def rotate_key(self, actor: Caller, cluster_id: str, *, overlap: int, operator: bool) -> tuple[Cluster, str]:
        """Give a cluster a new registration key, which is returned only here; the old one works `overlap` more seconds."""
        if not 0 <= overlap <= MAX_OVERLAP_SECONDS:
            raise InvalidRequest(
                f"'overlap_seconds' must be 0 to {MAX_OVERLAP_SECONDS}.", param="overlap_seconds", code="out_of_range"
            )
        key = new_registration_key()

        def store(session: WriteSession) -> Cluster:
            row = _lock(session, actor, cluster_id, operator)
            now = time.time()
            values = self._key_columns(key, int(now))
            kept = overlap > 0 and row.digest is not None
            values |= {
                "previous_digest": row.digest if kept else None,
                "previous_expires_at": now + overlap if kept else None,
            }
            details = {"changes_requested": {"registration_key": "rotated", "overlap_seconds": overlap}}
            return _update(session, actor, row.id, values, details)

        return self._database.transact(store), key

    def revoke_key(self, actor: Caller, cluster_id: str, *, operator: bool) -> Cluster:
        """Make every registration key of a cluster invalid: its agent is out within seconds. Idempotent."""

        def store(session: WriteSession) -> Cluster:
            row = _lock(session, actor, cluster_id, operator)
            names = ("digest", "previous_digest", "previous_expires_at", "key_prefix", "key_created_at")
            details = {"changes_requested": {"registration_key": "revoked"}}
            return _update(session, actor, row.id, dict.fromkeys(names), details)

        return self._database.transact(store)

    def set_drain(self, actor: Caller, cluster_id: str, *, drain: bool, operator: bool) -> Cluster:
        """Place no new work on a cluster, or (`drain` False) place it there again. Idempotent."""

        def store(session: WriteSession) -> Cluster:
            row = _lock(session, actor, cluster_id, operator)
            since = (row.drain_requested_at or int(time.time())) if drain else None
            return _update(
                session, actor, row.id, {"drain_requested_at": since}, {"changes_requested": {"drain": drain}}
            )

        return self._database.transact(store)

    def delete(self, actor: Caller, cluster_id: str, *, operator: bool) -> None:
        """Unregister a cluster; its agent is out within seconds. Conflict for the control plane's own."""

        def remove(session: WriteSession) -> None:
            row = _lock(session, actor, cluster_id, operator)
            found = cluster_from_row(row)
            if found.is_local:
                raise Conflict(
                    "The control plane runs on this cluster, which therefore can't be unregistered.",
                    code="local_cluster",
                )
            session.run(clusters.delete().where(clusters.c.id == cluster_id))
            _record(session, actor, found, DELETED, {})

        self._database.transact(remove)

    def _key_columns(self, key: str, now: int) -> dict[str, Any]:
        return {"digest": digest(self._pepper, key), "key_prefix": mask(key), "key_created_at": now}


def _visible(organization_id: str) -> ColumnElement[bool]:
    return or_(clusters.c.organization_id == organization_id, clusters.c.organization_id.is_(None))


def _not_found(cluster_id: str) -> NotFound:
    return NotFound(f"No cluster with id '{cluster_id[:64]}'. List yours with GET /v1/clusters.", param="id")


def _load(session: ReadSession, condition: ColumnElement[bool], cluster_id: str) -> Cluster:
    row = session.first(select(clusters).where(clusters.c.id == cluster_id, condition))
    if row is None:
        raise _not_found(cluster_id)
    return cluster_from_row(row)


def _lock(session: WriteSession, actor: Caller, cluster_id: str, operator: bool) -> Any:
    """The row of a cluster that the actor may change, locked until the transaction ends. NotFound, PermissionDenied."""
    mine = select(clusters).where(clusters.c.id == cluster_id, _visible(actor.organization_id))
    row = session.first(mine.with_for_update())
    if row is None:
        raise _not_found(cluster_id)
    if row.organization_id is None and not operator:
        raise PermissionDenied(
            "Only an owner of the default organization, who runs the installation, changes the cluster that the control "
            "plane runs on."
        )
    return row


def _update(
    session: WriteSession, actor: Caller, cluster_id: str, values: dict[str, Any], details: dict[str, Any]
) -> Cluster:
    session.run(update(clusters).where(clusters.c.id == cluster_id).values(**values))
    found = _load(session, _visible(actor.organization_id), cluster_id)
    _record(session, actor, found, UPDATED, details)
    return found


def _record(session: WriteSession, actor: Caller, cluster: Cluster, event: str, details: dict[str, Any]) -> None:
    """Write the event and the audit entry, last of all. Those of the control plane's cluster are its operators'."""
    organization_id = cluster.organization_id or actor.organization_id
    data = {"id": cluster.id, "name": cluster.name, "organization_id": organization_id, "project_id": None}
    outbox.add(session, event, f"clusters/{cluster.id}", data)
    type_ = {CREATED: "cluster.created", UPDATED: "cluster.updated", DELETED: "cluster.deleted"}[event]
    log.append_entry(session, actor, type_, {"id": cluster.id, **details}, organization_id=organization_id)
