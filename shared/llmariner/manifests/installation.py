"""The objects that exist once per installation, and the names that all other objects reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmariner.platform import serving
from llmariner.platform.serving.kserve.objects import PLUGINS_CONFIG_MAP

__all__ = [
    "ADMIN_KEY",
    "BROKER",
    "DATABASE",
    "GATEWAY",
    "GATEWAY_NAMESPACE",
    "HOST",
    "INSTALLATION_SECONDS",
    "JOBS_NAMESPACE",
    "JOBS_PRIORITY_CLASS",
    "LABELS",
    "LOCAL_GATEWAY",
    "MODELS_NAMESPACE",
    "NAMESPACE",
    "NOTEBOOKS_PRIORITY_CLASS",
    "PRIORITY_CLASS",
    "SECRETS",
    "SETTINGS",
    "STANDBY",
    "Object",
    "engine_plugins",
    "gateway",
    "namespaces",
    "priority_classes",
    "reference_grant",
    "settings",
]

Object = dict[str, Any]
"""A Kubernetes object as YAML writes it."""

NAMESPACE = "llmariner"
MODELS_NAMESPACE = "llmariner-models"
"""Where models run (docs/decisions/0007-a-namespace-for-models.md)."""
JOBS_NAMESPACE = "llmariner-jobs"
"""Where the commands of jobs run (docs/decisions/0026-jobs-as-plain-kubernetes-jobs.md)."""
SETTINGS = "llmariner-settings"
"""ConfigMap of settings; its keys are the names of environment variables."""
SECRETS = "llmariner-secrets"
"""Secret with the keys that functions reference; components/secrets or an administrator creates it."""
DATABASE = "llmariner-database"
"""Secret with `LLMARINER_DATABASE_URL`; only functions with the database extra reference it."""
PRIORITY_CLASS = "llmariner-foundation"
"""PriorityClass of the objects that every function depends on."""
NOTEBOOKS_PRIORITY_CLASS, JOBS_PRIORITY_CLASS = "llmariner-notebooks", "llmariner-jobs"
"""PriorityClasses of the pods of notebooks and jobs."""
INSTALLATION_SECONDS = 3600
"""Deadline of the installation Jobs: how long they wait for a Secret or a database that is created later."""
STANDBY = "llmariner-standby"
"""Secret with the token that standby engines require; it exists in both namespaces."""
ADMIN_KEY = "llmariner-admin-key"
"""Secret with the administrator's first API key, to be deleted once the key is stored elsewhere."""
BROKER = "default"
GATEWAY = "llmariner"
GATEWAY_NAMESPACE = "llmariner-gateway"
"""A namespace for the Gateway, because some proxies violate the pod security level of the functions' namespace."""
HOST = "api.llmariner.example"
"""The public host. An overlay sets its own at the Gateway; components/edge copies it to every route."""
LOCAL_GATEWAY = ("kourier-internal", "kourier-system")
"""Service and namespace of Knative's local gateway, which routes to functions by the Host header."""
LABELS = {"app.kubernetes.io/part-of": "llmariner"}

CONTROL_PLANE = "internal-gateway"
"""The function that serves the control plane to functions on the token path, which have no database."""


def namespaces() -> list[Object]:
    """The namespaces: pod security `restricted` for functions and jobs, `baseline` for third-party programs."""
    return [
        _namespace(NAMESPACE, enforce="restricted"),
        _namespace(MODELS_NAMESPACE, enforce="baseline", warn="restricted"),
        _namespace(JOBS_NAMESPACE, enforce="restricted"),
        _namespace(GATEWAY_NAMESPACE, enforce="baseline"),
    ]


def _namespace(name: str, **levels: str) -> Object:
    security = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {**LABELS, **security}},
    }


def priority_classes() -> list[Object]:
    """The priorities of pods, beside 0, which functions and models have as all pods without a class.

    What every function depends on comes before the functions, whose pods could occupy a small cluster and block it. The work
    that calls functions comes after them: it fails when one of them cannot start on a full node. Functions have no class of
    their own, since their pods would then drive out those of others in the cluster, its controllers among them. Cluster
    Autoscaler ignores pods below -10.
    """
    foundation = "LLMariner's database and the Jobs of its installation, before the functions that wait for them"
    return [
        _priority_class(PRIORITY_CLASS, 1_000_000, foundation),
        _priority_class(NOTEBOOKS_PRIORITY_CLASS, -1, "Notebooks of LLMariner, after the functions that they call"),
        _priority_class(JOBS_PRIORITY_CLASS, -2, "Jobs of LLMariner, after the functions that they call"),
    ]


def _priority_class(name: str, value: int, description: str) -> Object:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name, "labels": LABELS},
        "value": value,
        "globalDefault": False,
        "description": description,
    }


def settings() -> Object:
    """The settings of all functions; an overlay adds its own keys."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": SETTINGS, "namespace": NAMESPACE, "labels": LABELS},
        "data": {
            # The ingress of a Kafka class Broker; an overlay with another class sets that class' ingress.
            "LLMARINER_BROKER_URL": f"http://kafka-broker-ingress.knative-eventing.svc.cluster.local/{NAMESPACE}/default",
            "LLMARINER_CONTROL_URL": f"http://{CONTROL_PLANE}.{NAMESPACE}.svc.cluster.local",
            "LLMARINER_INFERENCE_URL": f"http://{{function}}.{NAMESPACE}.svc.cluster.local",
            # The control plane function overrides this.
            "LLMARINER_SERVING": "remote",
            "LLMARINER_MODELS_NAMESPACE": MODELS_NAMESPACE,
            "LLMARINER_JOBS": "kubernetes",
            "LLMARINER_JOBS_NAMESPACE": JOBS_NAMESPACE,
            "LLMARINER_JOB_PRIORITY_CLASS": JOBS_PRIORITY_CLASS,
            "LLMARINER_NOTEBOOK_PRIORITY_CLASS": NOTEBOOKS_PRIORITY_CLASS,
            # Where Prometheus runs: components/network-policy admits it from this namespace only.
            "PROMETHEUS_NAMESPACE": "monitoring",
        },
    }


def engine_plugins() -> Object:
    """The Python modules that engines load into vLLM, as the files of a folder on their Python path."""
    files = sorted(Path(serving.__file__).with_name("engine_plugins").glob("*.py"))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": PLUGINS_CONFIG_MAP, "namespace": MODELS_NAMESPACE, "labels": LABELS},
        "data": {file.name: file.read_text() for file in files},
    }


def gateway() -> Object:
    """The only ingress: TLS for one host, with routes of the functions' namespace only."""
    route_namespace_labels = {"kubernetes.io/metadata.name": NAMESPACE}
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
                    "allowedRoutes": {
                        "namespaces": {"from": "Selector", "selector": {"matchLabels": route_namespace_labels}}
                    },
                }
            ],
        },
    }


def reference_grant() -> Object:
    """Permits the HTTPRoutes to reference Knative's local gateway, which is in another namespace."""
    service, namespace = LOCAL_GATEWAY
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "llmariner", "namespace": namespace, "labels": LABELS},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": NAMESPACE}],
            "to": [{"group": "", "kind": "Service", "name": service}],
        },
    }
