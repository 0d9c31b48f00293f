"""The Kubernetes resources that the checks read, and the projects whose API kinds the platform depends on."""

from __future__ import annotations

from dataclasses import dataclass

from llmariner.platform.kube.resources import Resource

__all__ = [
    "API_SERVER_SOURCES",
    "BROKERS",
    "DEPENDENCIES",
    "EVENT_POLICIES",
    "GATEWAYS",
    "GATEWAY_CLASSES",
    "HTTP_ROUTES",
    "KNATIVE_SERVICES",
    "PING_SOURCES",
    "STATEFUL_SETS",
    "STORAGE_CLASSES",
    "TRIGGERS",
    "VOLUME_CLAIMS",
    "Dependency",
]

_SERVING, _EVENTING, _SOURCES = "serving.knative.dev/v1", "eventing.knative.dev/v1", "sources.knative.dev/v1"
_GATEWAY = "gateway.networking.k8s.io/v1"

KNATIVE_SERVICES = Resource(_SERVING, "Service", "services")
BROKERS = Resource(_EVENTING, "Broker", "brokers")
TRIGGERS = Resource(_EVENTING, "Trigger", "triggers")
PING_SOURCES = Resource(_SOURCES, "PingSource", "pingsources")
API_SERVER_SOURCES = Resource(_SOURCES, "ApiServerSource", "apiserversources")
EVENT_POLICIES = Resource("eventing.knative.dev/v1alpha1", "EventPolicy", "eventpolicies")
GATEWAY_CLASSES = Resource(_GATEWAY, "GatewayClass", "gatewayclasses", False)
GATEWAYS = Resource(_GATEWAY, "Gateway", "gateways")
HTTP_ROUTES = Resource(_GATEWAY, "HTTPRoute", "httproutes")
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses", False)
STATEFUL_SETS = Resource("apps/v1", "StatefulSet", "statefulsets")
VOLUME_CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")


@dataclass(frozen=True)
class Dependency:
    """A third-party project and the API kinds it serves, by version. `purpose`: its use if optional; empty if required."""

    name: str
    kinds: dict[str, tuple[str, ...]]
    release: str
    guide: str
    purpose: str = ""


# The releases are those that the manifests are validated against and the tests run on.
DEPENDENCIES = (
    Dependency(
        "Knative Serving",
        {_SERVING: ("Service", "Route", "Configuration", "Revision")},
        "1.23",
        "https://knative.dev/docs/install/",
    ),
    Dependency(
        "Knative Eventing",
        {_EVENTING: ("Broker", "Trigger"), _SOURCES: ("PingSource", "ApiServerSource")},
        "1.22",
        "https://knative.dev/docs/install/",
    ),
    Dependency(
        "Gateway API",
        {_GATEWAY: ("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant")},
        "1.6",
        "https://gateway-api.sigs.k8s.io/guides/",
    ),
    Dependency(
        "KServe",
        {
            "serving.kserve.io/v1beta1": ("InferenceService",),
            "serving.kserve.io/v1alpha1": ("ClusterServingRuntime",),
        },
        "0.20",
        "https://kserve.github.io/website/",
    ),
    Dependency(
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
    Dependency(
        "KEDA",
        {"keda.sh/v1alpha1": ("ScaledObject",)},
        "2.20",
        "https://keda.sh/docs/deploy/",
        "more replicas of one model by the engine's load (kserve/templates/scaled-object.yaml)",
    ),
    Dependency(
        "Prometheus operator",
        {"monitoring.coreos.com/v1": ("PodMonitor", "PrometheusRule")},
        "0.93",
        "https://prometheus-operator.dev/docs/getting-started/installation/",
        "metrics and alerts (components/monitoring)",
    ),
    Dependency(
        "cert-manager",
        {"cert-manager.io/v1": ("Certificate",)},
        "1.21",
        "https://cert-manager.io/docs/installation/",
        "the Gateway's certificate (components/certificate)",
    ),
)
