"""The kinds that the platform's objects are of, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.platform.kube.resources import Resource

__all__ = [
    "API_SERVER_SOURCES",
    "BROKERS",
    "CLAIMS",
    "EVENT_POLICIES",
    "FUNCTIONS",
    "GATEWAYS",
    "GATEWAY_CLASSES",
    "PING_SOURCES",
    "PROJECTS",
    "ROUTES",
    "STATEFUL_SETS",
    "STORAGE_CLASSES",
    "TRIGGERS",
    "Project",
]

_SERVING, _EVENTING, _SOURCES = "serving.knative.dev/v1", "eventing.knative.dev/v1", "sources.knative.dev/v1"
_GATEWAY = "gateway.networking.k8s.io/v1"

FUNCTIONS = Resource(_SERVING, "Service", "services")
BROKERS = Resource(_EVENTING, "Broker", "brokers")
TRIGGERS = Resource(_EVENTING, "Trigger", "triggers")
PING_SOURCES = Resource(_SOURCES, "PingSource", "pingsources")
API_SERVER_SOURCES = Resource(_SOURCES, "ApiServerSource", "apiserversources")
EVENT_POLICIES = Resource("eventing.knative.dev/v1alpha1", "EventPolicy", "eventpolicies")
GATEWAY_CLASSES = Resource(_GATEWAY, "GatewayClass", "gatewayclasses", False)
GATEWAYS = Resource(_GATEWAY, "Gateway", "gateways")
ROUTES = Resource(_GATEWAY, "HTTPRoute", "httproutes")
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", False)
STATEFUL_SETS = Resource("apps/v1", "StatefulSet", "statefulsets")
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")


@dataclass(frozen=True)
class Project:
    """What somebody else's project brings: kinds by version. `purpose`: who can do without; empty: nobody can."""

    name: str
    kinds: dict[str, tuple[str, ...]]
    release: str
    guide: str
    purpose: str = ""


# The releases are those that our manifests are validated against and our tests run on.
PROJECTS = (
    Project(
        "Knative Serving",
        {_SERVING: ("Service", "Route", "Configuration", "Revision")},
        "1.23",
        "https://knative.dev/docs/install/",
    ),
    Project(
        "Knative Eventing",
        {_EVENTING: ("Broker", "Trigger"), _SOURCES: ("PingSource", "ApiServerSource")},
        "1.22",
        "https://knative.dev/docs/install/",
    ),
    Project(
        "Gateway API",
        {_GATEWAY: ("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant")},
        "1.6",
        "https://gateway-api.sigs.k8s.io/guides/",
    ),
    Project(
        "KServe",
        {
            "serving.kserve.io/v1beta1": ("InferenceService",),
            "serving.kserve.io/v1alpha1": ("ClusterServingRuntime",),
        },
        "0.20",
        "https://kserve.github.io/website/",
    ),
    Project(
        "Kueue",
        {
            "kueue.x-k8s.io/v1beta2": (
                "ClusterQueue",
                "LocalQueue",
                "ResourceFlavor",
                "Workload",
                "WorkloadPriorityClass",
            )
        },
        "0.19",
        "https://kueue.sigs.k8s.io/docs/installation/",
        "quota; without it leave components/kueue/* out of the overlay and LLMARINER_QUEUE empty",
    ),
    Project(
        "KEDA",
        {"keda.sh/v1alpha1": ("ScaledObject",)},
        "2.20",
        "https://keda.sh/docs/deploy/",
        "more replicas of one model by the engine's load (kserve/templates/scaled-object.yaml)",
    ),
    Project(
        "Prometheus operator",
        {"monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule")},
        "0.93",
        "https://prometheus-operator.dev/docs/getting-started/installation/",
        "metrics and alerts (components/monitoring)",
    ),
    Project(
        "cert-manager",
        {"cert-manager.io/v1": ("Certificate",)},
        "1.21",
        "https://cert-manager.io/docs/installation/",
        "the Gateway's certificate (components/certificate)",
    ),
)
