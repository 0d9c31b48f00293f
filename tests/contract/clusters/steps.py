"""A sequence of all changes of a cluster."""

from __future__ import annotations

from llmariner.clusters.clusters import Clusters
from llmariner.platform.database import Database
from llmariner.tenancy.principal import KeyOwner

from ..team import PEPPER, Team

__all__ = ["emit_cluster_events"]


def emit_cluster_events(database: Database, owner: KeyOwner) -> None:
    """Register a cluster, change it and delete it."""
    clusters, admin = Clusters(database, PEPPER), Team(database, owner).admin
    cluster, _ = clusters.register(admin, "gpu-west")
    clusters.rotate_key(admin, cluster.id, overlap=60, operator=True)
    clusters.revoke_key(admin, cluster.id, operator=True)
    clusters.set_drain(admin, cluster.id, drain=True, operator=True)
    clusters.delete(admin, cluster.id, drain=False, operator=True)
