"""Every check of a cluster, in the order in which problems should be fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmariner.diagnostics import installation, knative, models
from llmariner.diagnostics import prerequisites as cluster_prerequisites
from llmariner.diagnostics.api_resources import (
    API_SERVER_SOURCES,
    BROKERS,
    DEPENDENCIES,
    GATEWAY_CLASSES,
    GATEWAYS,
    HTTP_ROUTES,
    KNATIVE_SERVICES,
    PING_SOURCES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    TRIGGERS,
    VOLUME_CLAIMS,
)
from llmariner.diagnostics.controllers import CONTROLLERS, controllers
from llmariner.diagnostics.result import CheckResult, CheckStatus, Unreadable, failed
from llmariner.diagnostics.snapshot import ClusterSnapshot
from llmariner.diagnostics.target import APPLY_COMMAND, Target
from llmariner.platform.kube import Cluster, Resource
from llmariner.platform.kube.resources import (
    CLUSTER_QUEUES,
    CLUSTER_SERVING_RUNTIMES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    JOBS,
    LOCAL_QUEUES,
    NAMESPACES,
    NODES,
    SECRETS,
)
from llmariner.settings import KServeSettings

__all__ = ["check_names", "checks", "load_target"]

Check = Callable[[Target], Iterator[CheckResult]]

_CLUSTER_CHECKS: dict[str, Check] = {
    "Kubernetes": cluster_prerequisites.kubernetes,
    "kinds": cluster_prerequisites.kinds,
    "controllers": controllers,
    "longest request": knative.longest_request,
    "feature flags": knative.features,
    "scale to zero": knative.scale_to_zero,
    "ingress class": knative.ingress,
    "local gateway": cluster_prerequisites.local_gateway,
    "broker class": knative.broker_class,
    "gateway class": cluster_prerequisites.gateway_class,
    "KServe deployment mode": models.deployment_mode,
    "KServe routes": models.route_timeouts,
    "nodes": models.hardware,
    "storage class": cluster_prerequisites.storage,
    "queue": models.queues,
}
_INSTALLATION_CHECKS: dict[str, Check] = {
    "namespaces": installation.namespaces,
    "secrets": installation.secrets,
    "database": installation.database,
    "jobs": installation.jobs,
    "functions": installation.functions,
    "gateway": installation.gateway,
    "routes": installation.routes,
    "events": installation.events,
    "event identity": installation.event_identity,
    "runtimes": models.runtimes,
}
# Reported by the checks above beside their own names.
_SUB_CHECKS = (
    "accelerators",
    "KServe routes",
    "Kueue frameworks",
    "secrets job",
    "migrations job",
    "broker",
    "triggers",
    "sources",
)
_CLUSTER_SCOPED = (
    GATEWAY_CLASSES,
    GATEWAYS,
    STORAGE_CLASSES,
    NODES,
    NAMESPACES,
    CLUSTER_QUEUES,
    CLUSTER_SERVING_RUNTIMES,
)
_NAMESPACED = (
    STATEFUL_SETS,
    KNATIVE_SERVICES,
    BROKERS,
    TRIGGERS,
    PING_SOURCES,
    API_SERVER_SOURCES,
    HTTP_ROUTES,
    SECRETS,
    JOBS,
    VOLUME_CLAIMS,
    DEPLOYMENTS,
)
_SETTINGS_CONFIG_MAP = "llmariner-settings"


def checks(cluster: Cluster, namespace: str, *, prerequisites: bool = False) -> list[CheckResult]:
    """The results of all checks; `prerequisites`: only those of the cluster, as if the platform were not installed.

    Raises Unavailable when no Kubernetes API server answers, Forbidden when it rejects the credentials.
    """
    snapshot = ClusterSnapshot(cluster)
    try:
        # This request comes first and alone, so that an unreachable server costs one timeout.
        cluster.get_raw("/version")
        target, results = load_target(snapshot, namespace, installed=not prerequisites)
        snapshot.prefetch(_prefetched(target), [version for project in DEPENDENCIES for version in project.kinds])
        selected = (
            _CLUSTER_CHECKS if prerequisites or not target.installed else {**_CLUSTER_CHECKS, **_INSTALLATION_CHECKS}
        )
        return [*(found for name, check in selected.items() for found in _run_check(name, check, target)), *results]
    finally:
        snapshot.close()


def check_names() -> list[str]:
    """The possible values of `CheckResult.check`, without those named after a namespace or a project."""
    return [*_CLUSTER_CHECKS, *_INSTALLATION_CHECKS, *_SUB_CHECKS]


def load_target(
    snapshot: ClusterSnapshot, namespace: str, *, installed: bool = True
) -> tuple[Target, list[CheckResult]]:
    """The installation in a namespace as its settings describe it, and the results for invalid or missing settings."""
    if not installed:
        return Target(snapshot, namespace), []
    try:
        found = snapshot.get_object(CONFIG_MAPS, namespace, _SETTINGS_CONFIG_MAP)
    except Unreadable as error:
        return Target(snapshot, namespace, installed=True), [_unknown_result("settings", error)]
    if found is None:
        missing = f"there is no ConfigMap {_SETTINGS_CONFIG_MAP} in {namespace}: the platform is not installed"
        remedy = (
            f"When all above is well: {APPLY_COMMAND}. To check a cluster before: llma cluster check --prerequisites"
        )
        return Target(snapshot, namespace), [failed("installation", missing, remedy)]
    settings = {key: str(value) for key, value in (found.get("data") or {}).items()}
    try:
        model_settings = KServeSettings.load(settings)
    except ValueError as error:
        remedy = f"Correct it in the overlay's settings.env, then {APPLY_COMMAND}."
        return Target(snapshot, namespace, True, settings), [failed("settings", str(error), remedy)]
    return Target(snapshot, namespace, True, settings, model_settings), []


def _prefetched(target: Target) -> list[tuple[Resource, str | None]]:
    reads: list[tuple[Resource, str | None]] = [(each, None) for each in _CLUSTER_SCOPED]
    reads += [(DEPLOYMENTS, namespace) for namespace, _ in CONTROLLERS.values()]
    reads += [(CONFIG_MAPS, knative.SERVING_NAMESPACE)]
    if target.installed:
        reads += [(each, target.namespace) for each in _NAMESPACED]
        reads += [(each, target.models.namespace) for each in (LOCAL_QUEUES, INFERENCE_SERVICES)]
    return reads


def _run_check(name: str, check: Check, target: Target) -> Iterator[CheckResult]:
    try:
        yield from check(target)
    except Unreadable as error:
        yield _unknown_result(name, error)


def _unknown_result(name: str, error: Unreadable) -> CheckResult:
    return CheckResult(name, CheckStatus.UNKNOWN, str(error), error.remedy)
