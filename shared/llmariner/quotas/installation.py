"""The capacity adapter of an installation on a cluster."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.job_settings import JobSettings
from llmariner.platform.capacity import Capacity
from llmariner.settings import ClusterSettings, KServeSettings

__all__ = ["cluster_capacity"]


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
