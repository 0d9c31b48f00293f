"""What the cluster's own configuration must say before our objects are admitted. Applied apart, by an administrator."""

from __future__ import annotations

from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import Object

__all__ = ["config_defaults", "config_features"]

# Knative's own value, below which nothing needs to be said.
KNATIVE_LIMIT = 600


def config_defaults(workloads: Iterable[Workload]) -> Object:
    """Knative refuses a Service whose timeout is above its cluster-wide limit: raise that to our longest."""
    longest = max((workload.timeout_seconds for workload in workloads), default=0)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-defaults", "namespace": "knative-serving"},
        "data": {"max-revision-timeout-seconds": str(max(longest, KNATIVE_LIMIT))},
    }


def config_features() -> Object:
    """What components/disruption asks of a function's pod and Knative refuses unless it is told to take it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-features", "namespace": "knative-serving"},
        "data": {"kubernetes.podspec-topologyspreadconstraints": "enabled"},
    }
