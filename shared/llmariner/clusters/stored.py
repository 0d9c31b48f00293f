"""The rows of clusters: which an organization sees, which an actor may change, and the record of each change.

A cluster is an organization's, but for the one of the control plane, which all organizations see and only the owners of the
default organization change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_, select

from llmariner.audit import log
from llmariner.clusters.cluster import Cluster, cluster_from_row
from llmariner.clusters.events import CREATED, DELETED, UPDATED
from llmariner.clusters.tables import clusters
from llmariner.errors import NotFound, PermissionDenied
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.tenancy.principal import Caller

__all__ = ["is_visible", "lock_changeable", "record_change", "visible_cluster"]

_AUDIT_TYPES = {CREATED: "cluster.created", UPDATED: "cluster.updated", DELETED: "cluster.deleted"}


def is_visible(organization_id: str) -> ColumnElement[bool]:
    """The condition on rows of `clusters` that an organization sees."""
    return or_(clusters.c.organization_id == organization_id, clusters.c.organization_id.is_(None))


def visible_cluster(session: ReadSession, organization_id: str, cluster_id: str) -> Cluster:
    """A cluster that an organization sees. NotFound."""
    row = session.first(select(clusters).where(clusters.c.id == cluster_id, is_visible(organization_id)))
    if row is None:
        raise _not_found(cluster_id)
    return cluster_from_row(row)


def lock_changeable(session: WriteSession, actor: Caller, cluster_id: str, *, operator: bool) -> Cluster:
    """A cluster that the actor may change, locked until the transaction ends. NotFound, PermissionDenied.

    `operator`: the actor runs the installation.
    """
    own = select(clusters).where(clusters.c.id == cluster_id, is_visible(actor.organization_id))
    row = session.first(own.with_for_update())
    if row is None:
        raise _not_found(cluster_id)
    if row.organization_id is None and not operator:
        raise PermissionDenied(
            "Only an owner of the default organization, who runs the installation, changes the cluster that the control "
            "plane runs on."
        )
    return cluster_from_row(row)


def record_change(
    session: WriteSession, actor: Caller | None, cluster: Cluster, event: str, details: dict[str, Any]
) -> None:
    """Write the event and the audit entry; must be the last call of the transaction. `actor` None: the platform itself.

    Changes of the control plane's cluster are recorded with the organization of their actor.
    """
    organization_id = cluster.organization_id or (actor.organization_id if actor else None)
    assert organization_id is not None, "the platform changes no shared cluster"
    data = {"id": cluster.id, "name": cluster.name, "organization_id": organization_id, "project_id": None}
    outbox.add(session, event, f"clusters/{cluster.id}", data)
    payload = {"id": cluster.id, **details}
    log.append_entry(session, actor, _AUDIT_TYPES[event], payload, organization_id=organization_id)


def _not_found(cluster_id: str) -> NotFound:
    return NotFound(f"No cluster with id '{cluster_id[:64]}'. List yours with GET /v1/clusters.", param="id")
