"""Every check of a cluster, in the order in which one would mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmariner.diagnostics import installation, knative, models
from llmariner.diagnostics import prerequisites as foundation
from llmariner.diagnostics.api_resources import (
    API_SERVER_SOURCES,
    BROKERS,
    CLAIMS,
    FUNCTIONS,
    GATEWAY_CLASSES,
    GATEWAYS,
    PING_SOURCES,
    PROJECTS,
    ROUTES,
    STATEFUL_SETS,
    STORAGE_CLASSES,
    TRIGGERS,
)
from llmariner.diagnostics.controllers import CONTROLLERS, controllers
from llmariner.diagnostics.result import Finding, Result, Unreadable, failed
from llmariner.diagnostics.snapshot import Reading
from llmariner.diagnostics.target import APPLY, Place
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

__all__ = ["check_names", "checks", "place_of"]

Check = Callable[[Place], Iterator[Finding]]

_CLUSTER: dict[str, Check] = {
    "Kubernetes": foundation.kubernetes,
    "kinds": foundation.kinds,
    "controllers": controllers,
    "longest request": knative.longest_request,
    "feature flags": knative.features,
    "scale to zero": knative.scale_to_zero,
    "ingress class": knative.ingress,
    "local gateway": foundation.local_gateway,
    "broker class": knative.broker_class,
    "gateway class": foundation.gateway_class,
    "KServe deployment mode": models.deployment_mode,
    "KServe routes": models.route_timeouts,
    "nodes": models.hardware,
    "storage class": foundation.storage,
    "queue": models.queues,
}
_INSTALLATION: dict[str, Check] = {
    "namespaces": installation.namespaces,
    "secrets": installation.secrets,
    "database": installation.database,
    "jobs": installation.jobs,
    "functions": installation.functions,
    "gateway": installation.gateway,
    "routes": installation.routes,
    "events": installation.events,
    "event identity": installation.identity,
    "runtimes": models.runtimes,
}
# Found beside what they stand next to.
_FINER = (
    "accelerators",
    "KServe routes",
    "Kueue frameworks",
    "secrets job",
    "migrations job",
    "broker",
    "triggers",
    "sources",
)
_WHOLE = (GATEWAY_CLASSES, GATEWAYS, STORAGE_CLASSES, NODES, NAMESPACES, CLUSTER_QUEUES, CLUSTER_SERVING_RUNTIMES)
_OURS = (
    STATEFUL_SETS,
    FUNCTIONS,
    BROKERS,
    TRIGGERS,
    PING_SOURCES,
    API_SERVER_SOURCES,
    ROUTES,
    SECRETS,
    JOBS,
    CLAIMS,
    DEPLOYMENTS,
)
_SETTINGS = "llmariner-settings"


def checks(cluster: Cluster, namespace: str, *, prerequisites: bool = False) -> list[Finding]:
    """What is found; `prerequisites`: only what the cluster must bring, as if nothing of ours were installed.

    Unavailable when the API server doesn't answer, or is none; Forbidden when it doesn't take the credentials.
    """
    reading = Reading(cluster)
    try:
        # Alone and first: a server that is away is waited for once.
        cluster.get_raw("/version")
        place, findings = place_of(reading, namespace, installed=not prerequisites)
        reading.ahead(_reads(place), [version for project in PROJECTS for version in project.kinds])
        asked = _CLUSTER if prerequisites or not place.installed else {**_CLUSTER, **_INSTALLATION}
        return [*(found for name, check in asked.items() for found in _told(name, check, place)), *findings]
    finally:
        reading.close()


def check_names() -> list[str]:
    """What a finding may be called, but for namespaces and projects, which are called by their own names."""
    return [*_CLUSTER, *_INSTALLATION, *_FINER]


def place_of(reading: Reading, namespace: str, *, installed: bool = True) -> tuple[Place, list[Finding]]:
    """The installation in a namespace as its settings describe it, and what is wrong with them."""
    if not installed:
        return Place(reading, namespace), []
    try:
        found = reading.get(CONFIG_MAPS, namespace, _SETTINGS)
    except Unreadable as error:
        return Place(reading, namespace, installed=True), [_unknown("settings", error)]
    if found is None:
        missing = f"there is no ConfigMap {_SETTINGS} in {namespace}: the platform is not installed"
        mend = f"When all above is well: {APPLY}. To check a cluster before: llma cluster check --prerequisites"
        return Place(reading, namespace), [failed("installation", missing, mend)]
    settings = {key: str(value) for key, value in (found.get("data") or {}).items()}
    try:
        models_ = KServeSettings.load(settings)
    except ValueError as error:
        mend = f"Correct it in the overlay's settings.env, then {APPLY}."
        return Place(reading, namespace, True, settings), [failed("settings", str(error), mend)]
    return Place(reading, namespace, True, settings, models_), []


def _reads(place: Place) -> list[tuple[Resource, str | None]]:
    reads: list[tuple[Resource, str | None]] = [(each, None) for each in _WHOLE]
    reads += [(DEPLOYMENTS, namespace) for namespace, _ in CONTROLLERS.values()]
    reads += [(CONFIG_MAPS, knative.SERVING)]
    if place.installed:
        reads += [(each, place.namespace) for each in _OURS]
        reads += [(each, place.models.namespace) for each in (LOCAL_QUEUES, INFERENCE_SERVICES)]
    return reads


def _told(name: str, check: Check, place: Place) -> Iterator[Finding]:
    try:
        yield from check(place)
    except Unreadable as error:
        yield _unknown(name, error)


def _unknown(name: str, error: Unreadable) -> Finding:
    return Finding(name, Result.UNKNOWN, str(error), error.mend)
