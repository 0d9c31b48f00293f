"""The objects that an installation has once, and the names by which all others refer to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmariner.platform import serving
from llmariner.platform.serving.kserve.objects import PLUGINS_CONFIG_MAP

__all__ = [
    "ADMIN_KEY",
    "BROKER",
    "DATABASE",
    "FOUNDATION",
    "GATEWAY",
    "GATEWAY_NAMESPACE",
    "HOST",
    "INSTALLATION_SECONDS",
    "LABELS",
    "LOCAL_GATEWAY",
    "MODELS_NAMESPACE",
    "NAMESPACE",
    "SECRETS",
    "SETTINGS",
    "STANDBY",
    "Object",
    "engine_plugins",
    "gateway",
    "namespaces",
    "reference_grant",
    "settings",
]

Object = dict[str, Any]
"""A Kubernetes object as YAML writes it."""

NAMESPACE = "llmariner"
MODELS_NAMESPACE = "llmariner-models"
"""Where models run (docs/decisions/0007-a-namespace-for-models.md)."""
SETTINGS = "llmariner-settings"
"""ConfigMap of settings; its keys are the names of environment variables."""
SECRETS = "llmariner-secrets"
"""Secret with the keys that functions refer to. Made by components/secrets, or by hand: no manifest holds a value."""
DATABASE = "llmariner-database"
"""Secret with `LLMARINER_DATABASE_URL`; only functions with a database see it."""
FOUNDATION = "llmariner-foundation"
"""PriorityClass of what every function waits for."""
INSTALLATION_SECONDS = 3600
"""How long the Jobs of an installation wait for what somebody brings later: a Secret, a database that is being made."""
STANDBY = "llmariner-standby"
"""Secret with the word that standby engines want to hear; in both namespaces, where there are such engines."""
ADMIN_KEY = "llmariner-admin-key"
"""Secret with the first API key of the administrator, who deletes it once it is noted."""
BROKER = "default"
GATEWAY = "llmariner"
GATEWAY_NAMESPACE = "llmariner-gateway"
"""The Gateway's own: some implementations run their proxy beside it, which the functions' pod security would refuse."""
HOST = "api.llmariner.example"
"""The one public host. An overlay says its own at the Gateway; components/edge copies it to every route."""
LOCAL_GATEWAY = ("kourier-internal", "kourier-system")
"""Service and namespace of Knative's local gateway, which knows every function by its Host header."""
LABELS = {"app.kubernetes.io/part-of": "llmariner"}

CONTROL = "internal-gateway"
"""The function that owns the database and the serving port for the functions on the token path."""


def namespaces() -> list[Object]:
    """Functions under the strictest pod security that Kubernetes knows; what runs others' images under baseline."""
    return [
        _namespace(NAMESPACE, enforce="restricted"),
        _namespace(MODELS_NAMESPACE, enforce="baseline", warn="restricted"),
        _namespace(GATEWAY_NAMESPACE, enforce="baseline"),
    ]


def _namespace(name: str, **levels: str) -> Object:
    security = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**LABELS, **security}},
    }


def foundation_priority() -> Object:
    """The priority of what every function waits for: the database, its pool, and the Jobs of an installation.

    Functions that wait for them are pods, too, and may have taken all room of a small cluster before.
    """
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": FOUNDATION, "labels": LABELS},
        "value": 1_000_000,
        "globalDefault": False,
        "description": "LLMariner's database and the Jobs of its installation, before the functions that wait for them",
    }


def settings() -> Object:
    """What all functions are told alike; an overlay adds its own keys."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SETTINGS, "namespace": NAMESPACE, "labels": LABELS},
        "data": {
            # The ingress of a Kafka class Broker; one of another class has another, which an overlay says.
            "LLMARINER_BROKER_URL": f"http://kafka-broker-ingress.knative-eventing.svc.cluster.local/{NAMESPACE}/default",
            "LLMARINER_CONTROL_URL": f"http://{CONTROL}.{NAMESPACE}.svc.cluster.local",
            # The control function alone says otherwise of itself.
            "LLMARINER_SERVING": "remote",
            "LLMARINER_MODELS_NAMESPACE": MODELS_NAMESPACE,
            # Where Prometheus runs: components/network-policy lets it in from there and from nowhere else.
            "PROMETHEUS_NAMESPACE": "monitoring",
        },
    }


def engine_plugins() -> Object:
    """What our models' engines load beside vLLM, as the files of a folder on their Python path."""
    files = sorted(Path(serving.__file__).with_name("engine_plugins").glob("*.py"))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PLUGINS_CONFIG_MAP, "namespace": MODELS_NAMESPACE, "labels": LABELS},
        "data": {file.name: file.read_text() for file in files},
    }


def gateway() -> Object:
    """The only door: TLS for one host, routes of the functions' namespace alone."""
    routed = {"kubernetes.io/metadata.name": NAMESPACE}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": GATEWAY_NAMESPACE, "labels": LABELS},
        "spec": {
            "gatewayClassName": "contour",
            "listeners": [
                {
                    "name": "api",
                    "hostname": HOST,
                    "port": 443,
                    "protocol": "HTTPS",
                    "tls": {"mode": "Terminate", "certificateRefs": [{"name": "llmariner-tls"}]},
                    "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchLabels": routed}}},
                }
            ],
        },
    }


def reference_grant() -> Object:
    """Lets our routes point at Knative's local gateway, which lives in a namespace of its own."""
    service, there = LOCAL_GATEWAY
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "llmariner", "namespace": there, "labels": LABELS},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": NAMESPACE}],
            "to": [{"group": "", "kind": "Service", "name": service}],
        },
    }
