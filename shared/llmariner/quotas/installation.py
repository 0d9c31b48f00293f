"""The capacity adapter of an installation on a cluster."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.job_settings import JobSettings
from llmariner.platform.capacity import Capacity
from llmariner.platform.database import Database
from llmariner.quotas.quotas import Quotas
from llmariner.settings import ClusterSettings, KServeSettings

__all__ = ["cluster_capacity", "request_settlements", "settle"]


def cluster_capacity(env: Environment) -> Capacity:
    """The ClusterQueues of Kueue. Raises Unavailable in an installation that doesn't use them."""
    settings = KServeSettings.load(env)
    if not settings.queue:
        raise Unavailable(
            "This installation has no quotas: a cluster needs Kueue for them, and its LocalQueue in LLMARINER_QUEUE.",
            code="no_quotas",
            headers={"x-should-retry": "false"},
        )
    from llmariner.platform.capacity.kueue import KueueCapacity
    from llmariner.platform.kube import Cluster

    namespaces = (settings.namespace, JobSettings.load(env).namespace)
    return KueueCapacity(Cluster(ClusterSettings.load(env)), namespaces, settings.queue)


def request_settlements(env: Environment, database: Database) -> None:
    """Have quotas applied that are not in effect, by a consumer that may change queues, where there is Kueue."""
    if KServeSettings.load(env).queue:
        Quotas(database, lambda: cluster_capacity(env)).request_settlements()


def settle(env: Environment, database: Database, organization_id: str) -> None:
    """Apply the quotas of an organization to the queues of the cluster; nothing where there is no Kueue any more."""
    if KServeSettings.load(env).queue:
        Quotas(database, lambda: cluster_capacity(env)).settle(organization_id)
