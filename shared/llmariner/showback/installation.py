"""Showback of an installation on a cluster with Kueue."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.settings import ClusterSettings, KServeSettings
from llmariner.showback.allocations import Allocations
from llmariner.showback.cluster_allocations import ClusterAllocations
from llmariner.showback.events import CHECK_REQUESTED

__all__ = ["cluster_allocations", "request_check"]


def cluster_allocations(env: Environment, database: Database) -> ClusterAllocations | None:
    """What records Kueue's Workloads; None in an installation without Kueue."""
    settings = KServeSettings.load(env)
    if not settings.queue:
        return None
    from llmariner.platform.capacity.kueue_workloads import KueueWorkloads
    from llmariner.platform.kube import Cluster

    namespaces = (settings.namespace, JobSettings.load(env).namespace)
    workloads = KueueWorkloads(Cluster(ClusterSettings.load(env)), namespaces)
    return ClusterAllocations(Allocations(database), workloads)


def request_check(env: Environment, database: Database) -> None:
    """Have all Workloads compared with what is recorded, by a consumer that may read them, where there is Kueue."""
    if KServeSettings.load(env).queue:
        with database.write() as session:
            outbox.add(session, CHECK_REQUESTED, "allocations/all", {"id": "all", "project_id": None})
