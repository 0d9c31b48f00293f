"""The capacity adapter of an installation on a cluster."""

from __future__ import annotations

from llmariner.environment import Environment
from llmariner.errors import Unavailable
from llmariner.platform.capacity import Capacity

__all__ = ["cluster_capacity"]


def cluster_capacity(env: Environment) -> Capacity:
    """The ClusterQueues of Kueue. Raises Unavailable in an installation that doesn't use them."""
    raise Unavailable(
        "This installation has no quotas: on a cluster they need Kueue (LLMARINER_QUEUE), else a platform on one machine.",
        code="no_quotas",
        headers={"x-should-retry": "false"},
    )
