"""The clusters on which a project's work may run: those that its assignments name, or all that its organization sees."""

from __future__ import annotations

import json

from sqlalchemy import select

from llmariner.clusters.cluster import Cluster, cluster_from_row
from llmariner.clusters.stored import is_visible
from llmariner.clusters.tables import clusters
from llmariner.platform.database import Database
from llmariner.tenancy.tables import projects

__all__ = ["assigned_clusters"]


def assigned_clusters(
    database: Database, organization_id: str, project_id: str | None, *, after: str | None, limit: int
) -> tuple[list[Cluster], bool]:
    """A page of the clusters of a project, and whether more follow.

    An assignment without a cluster is for every cluster, and so is a project without assignments; None: of no project.
    """
    query = select(clusters).where(is_visible(organization_id))
    with database.read() as session:
        stored = session.value(select(projects.c.assignments).where(projects.c.id == project_id))
        named = [each["cluster_id"] for each in json.loads(stored or "[]")]
        if named and "" not in named:
            query = query.where(clusters.c.id.in_(named))
        if after is not None:
            query = query.where(clusters.c.id > after)
        rows = session.rows(query.order_by(clusters.c.id).limit(limit + 1))
    return [cluster_from_row(row) for row in rows[:limit]], len(rows) > limit
