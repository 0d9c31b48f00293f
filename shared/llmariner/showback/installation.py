"""Showback of an installation on a cluster with Kueue."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.job_settings import JobSettings
from llmariner.platform.database import Database
from llmariner.platform.events import outbox
from llmariner.platform.kube.errors import ClusterError
from llmariner.settings import ClusterSettings, KServeSettings
from llmariner.showback.allocations import Allocations
from llmariner.showback.cluster_allocations import ClusterAllocations
from llmariner.showback.events import CHECK_REQUESTED
from llmariner.showback.workloads import placed_workloads

if TYPE_CHECKING:
    from llmariner.clusters.installation import ClusterInstallation

__all__ = ["check_worker_clusters", "cluster_allocations", "read_utilization", "request_check"]

_log = logging.getLogger(__name__)
_MOST_TIMES = 3
_WORK_NAMESPACE = "llmariner-jobs"
"""Of jobs on worker clusters, as `sessions.control_plane_roles` has it."""


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


def check_worker_clusters(
    database: Database,
    clusters: ClusterInstallation,
    *,
    seconds: float = 15.0,
    cluster_seconds: float = 60.0,
) -> None:
    """Record what jobs and models hold on worker clusters. A cluster that is away is left for later.

    Once it is lost, what it held begins again elsewhere, and what can't be seen there is not charged any longer.
    `seconds`: after which no further cluster is begun with; they are read in any order, so that each has its turn.
    `cluster_seconds`: after which one is left for later, but for a request that is under way.
    """
    from llmariner.platform.capacity.kueue_workloads import KueueWorkloads

    store, deadline = Allocations(database), time.monotonic() + seconds
    by_cluster = list(placed_workloads(database).items())
    random.shuffle(by_cluster)
    for cluster_id, placed in by_cluster:
        try:
            status = clusters.statuses.of([cluster_id]).get(cluster_id)
            if status is None:  # it is not registered any more
                store.end_when_last_seen(cluster_id)
            elif status.accepts_work:
                connection = clusters.remote.connection_to(cluster_id)
                ends_at = time.monotonic() + cluster_seconds
                workloads = KueueWorkloads(connection, (_WORK_NAMESPACE, KServeSettings.namespace), ends_at)
                ClusterAllocations(store, workloads, cluster_id, placed).reconcile_all()
        except (ClusterError, Unavailable) as error:
            _log.info("allocations of the cluster %s are not compared now: %s", cluster_id, error)
        except Exception:
            # A cluster is its organization's, and may say anything: that of one holds up no other.
            _log.exception("what the cluster %s says of its Workloads can't be recorded", cluster_id)
        store.end_unseen(cluster_id, round((time.time() - clusters.settings.lost_seconds) * 1000))
        if time.monotonic() > deadline:
            break


def request_check(env: Environment, database: Database) -> None:
    """Have all Workloads compared with what is recorded, by a consumer that may read them, where there is Kueue."""
    if KServeSettings.load(env).queue:
        with database.write() as session:
            outbox.add(session, CHECK_REQUESTED, "allocations/all", {"id": "all", "project_id": None})


def read_utilization(env: Environment, database: Database, *, seconds: float) -> None:
    """Read how far GPUs and cores are used, where a Prometheus is set. One that is away, or slow, is left for later."""
    settings = KServeSettings.load(env)
    if not settings.prometheus:
        return
    from llmariner.platform.prometheus import Prometheus
    from llmariner.showback.utilization import record_utilization

    # The platform's own, and those of worker clusters.
    namespaces = {settings.namespace, JobSettings.load(env).namespace, KServeSettings.namespace, _WORK_NAMESPACE}
    # An hour takes some twenty queries: it may take longer than `seconds`, after which no other one is begun.
    server = Prometheus(settings.prometheus, deadline=time.monotonic() + _MOST_TIMES * seconds)
    try:
        record_utilization(database, server, namespaces, seconds=seconds)
    except Unavailable as error:
        _log.warning("the use of GPUs is not read now: %s", error.message)
