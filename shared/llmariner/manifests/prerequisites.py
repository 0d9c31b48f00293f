"""Knative configuration that the cluster needs before the platform's objects are admitted; an administrator applies it."""

from __future__ import annotations

from collections.abc import Iterable

from llmariner.manifests.declarations import Workload
from llmariner.manifests.installation import Object

__all__ = ["config_defaults", "config_features"]

# Knative's default of max-revision-timeout-seconds.
KNATIVE_DEFAULT_SECONDS = 600


def config_defaults(workloads: Iterable[Workload]) -> Object:
    """Raises Knative's cluster-wide timeout limit to the longest declared timeout; it rejects Services above it."""
    longest = max((workload.timeout_seconds for workload in workloads), default=0)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-defaults", "namespace": "knative-serving"},
        "data": {"max-revision-timeout-seconds": str(max(longest, KNATIVE_DEFAULT_SECONDS))},
    }


def config_features() -> Object:
    """Enables the pod field that components/disruption sets and Knative rejects by default."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "config-features", "namespace": "knative-serving"},
        "data": {"kubernetes.podspec-topologyspreadconstraints": "enabled"},
    }
