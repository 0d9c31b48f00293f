"""Single faults of a healthy cluster: the change, the check that finds it, and words of its detail and remedy."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmariner.diagnostics.knative import FEATURE_FLAGS

if TYPE_CHECKING:
    from cli.fake_cluster import Body, FakeCluster

__all__ = ["FAULTS", "with_setting"]

_fake_cluster = importlib.import_module(".fake_cluster", __package__)
conditions_status = _fake_cluster.conditions_status

PLATFORM, MODELS = "llmariner", "llmariner-models"
GATEWAY: str = next(
    f"{each['metadata']['namespace']}/{each['metadata']['name']}"
    for each in _fake_cluster.rendered("playground")
    if each["kind"] == "Gateway"
)


def without_key(config_map: str, key: str) -> Callable[[FakeCluster], None]:
    """A key of one of Knative's ConfigMaps is missing."""
    return lambda healthy_cluster: healthy_cluster.modify(
        "ConfigMap", f"knative-serving/{config_map}", lambda old: old["data"].pop(key)
    )


def with_setting(place: str, key: str, value: str) -> Callable[[FakeCluster], None]:
    """A key of a ConfigMap has another value."""
    return lambda healthy_cluster: healthy_cluster.modify(
        "ConfigMap", place, lambda old: old["data"].__setitem__(key, value)
    )


def without_object(kind: str, place: str) -> Callable[[FakeCluster], None]:
    return lambda healthy_cluster: healthy_cluster.delete(kind, place)


def with_failed_condition(kind: str, place: str, condition: str, message: str) -> Callable[[FakeCluster], None]:
    """A condition of an object is False."""
    found = conditions_status(condition, status="False", reason="Broken", message=message)
    return lambda healthy_cluster: healthy_cluster.set_status(kind, place, found)


def with_spec(kind: str, place: str, **values: Any) -> Callable[[FakeCluster], None]:
    return lambda healthy_cluster: healthy_cluster.modify(
        kind, place, lambda old: old.setdefault("spec", {}).update(values)
    )


KSERVE = "kserve/inferenceservice-config"
GATEWAY_API = json.dumps({"enableGatewayApi": True, "kserveIngressGateway": "kserve/gateway"})
SERVICE, ROUTE = "Service.serving.knative.dev", "HTTPRoute"


def model_without_timeout(healthy_cluster: FakeCluster) -> None:
    with_setting(KSERVE, "ingress", GATEWAY_API)(healthy_cluster)
    predictor: Body = {"model": {"modelFormat": {"name": "vLLM"}, "storageUri": "hf://meta/tiny"}}
    metadata = {"name": "theirs", "namespace": MODELS}
    kind = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService"}
    healthy_cluster.create({**kind, "metadata": metadata, "spec": {"predictor": predictor}})


def unready_node(healthy_cluster: FakeCluster) -> None:
    offered = {"cpu": "8", "memory": "8Gi"}
    why = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no network"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}
    healthy_cluster.create({**node, "status": {"allocatable": offered, "conditions": [why]}})


def unbound_claim(healthy_cluster: FakeCluster) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    metadata = {"name": "data-postgres-0", "namespace": PLATFORM}
    healthy_cluster.create({**claim, "metadata": metadata, "spec": {}, "status": {"phase": "Pending"}})


def no_default_class(healthy_cluster: FakeCluster) -> None:
    healthy_cluster.modify("StorageClass", "local", lambda old: old["metadata"]["annotations"].clear())
    unbound_claim(healthy_cluster)


def certificate_missing(healthy_cluster: FakeCluster) -> None:
    tls = {"mode": "Terminate", "certificateRefs": [{"name": "llmariner-tls"}]}
    listener = {"name": "api", "port": 443, "protocol": "HTTPS", "hostname": "api.llmariner.test", "tls": tls}
    with_spec("Gateway", GATEWAY, listeners=[listener])(healthy_cluster)


def route_not_accepted(healthy_cluster: FakeCluster) -> None:
    refused = conditions_status("Accepted", status="False", reason="NoMatchingListenerHostname", message="no such host")
    parent = {"controllerName": "a.example/b", "parentRef": {"name": "llmariner"}, **refused}
    healthy_cluster.set_status(ROUTE, f"{PLATFORM}/models", {"parents": [parent]})


def empty_secret(healthy_cluster: FakeCluster) -> None:
    healthy_cluster.modify("Secret", f"{PLATFORM}/llmariner-secrets", lambda old: old["data"].pop("LLMARINER_PEPPER"))


def no_kafka(healthy_cluster: FakeCluster) -> None:
    annotation = {"eventing.knative.dev/broker.class": "Kafka"}
    healthy_cluster.modify(
        "Broker", f"{PLATFORM}/default", lambda old: old["metadata"]["annotations"].update(annotation)
    )


def events_asked_for_their_sender(healthy_cluster: FakeCluster) -> None:
    metadata = {"name": "config-features", "namespace": "knative-eventing"}
    data = {"authentication-oidc": "enabled"}
    healthy_cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


FAULTS: dict[str, tuple[Callable[[FakeCluster], None], str, str, str]] = {
    "request limit unset": (
        without_key("config-defaults", "max-revision-timeout-seconds"),
        "longest request",
        "600 (unset); functions need 14400",
        'patch configmap config-defaults --type merge -p \'{"data":{"max-revision-timeout-seconds":"14400"}}\'',
    ),
    "request limit too small": (
        with_setting("knative-serving/config-defaults", "max-revision-timeout-seconds", "3600"),
        "longest request",
        "is 3600; functions need 14400",
        "kubectl -n knative-serving patch",
    ),
    "request limit no number": (
        with_setting("knative-serving/config-defaults", "max-revision-timeout-seconds", "an hour"),
        "longest request",
        "is an hour; functions need",
        "kubectl -n knative-serving patch",
    ),
    "a longer function": (
        lambda healthy_cluster: healthy_cluster.modify(
            SERVICE, f"{PLATFORM}/models", lambda old: old["spec"]["template"]["spec"].update(timeoutSeconds=20000)
        ),
        "longest request",
        "functions need 20000",
        '"20000"',
    ),
    "feature off": (
        without_key("config-features", FEATURE_FLAGS[0]),
        "feature flags",
        f"{FEATURE_FLAGS[0]} is not enabled",
        f'{{"{FEATURE_FLAGS[0]}":"enabled"}}',
    ),
    "volumes refused": (
        with_setting("knative-serving/config-features", "kubernetes.podspec-volumes-emptydir", "Disabled"),
        "feature flags",
        "emptydir is not enabled",
        "patch configmap config-features",
    ),
    "never to zero": (
        with_setting("knative-serving/config-autoscaler", "enable-scale-to-zero", "false"),
        "scale to zero",
        "is false",
        '"enable-scale-to-zero":"true"',
    ),
    "ingress class unset": (
        without_key("config-network", "ingress-class"),
        "ingress class",
        "istio.ingress.networking.knative.dev (unset, so Knative's own) has no controller",
        '"ingress-class":"kourier.ingress.networking.knative.dev"',
    ),
    "ingress controller away": (
        without_object("Deployment", "knative-serving/net-kourier-controller"),
        "ingress class",
        "kourier.ingress.networking.knative.dev has no controller that runs",
        "Install an ingress of Knative",
    ),
    "local gateway away": (
        without_object("Service", "kourier-system/kourier-internal"),
        "local gateway",
        "no Service kourier-internal in kourier-system",
        "Set LOCAL_GATEWAY_SERVICE",
    ),
    "another class of Broker": (no_kafka, "broker class", "no running kafka-broker-receiver", "eventing-kafka-broker"),
    "Broker's own part away": (
        without_object("Deployment", "knative-eventing/mt-broker-filter"),
        "broker class",
        "MTChannelBasedBroker: in knative-eventing there is no running mt-broker-filter",
        "mt-channel-broker.yaml",
    ),
    "controller away": (
        without_object("Deployment", "kserve/kserve-controller-manager"),
        "KServe controllers",
        "no kserve-controller-manager",
        "Install KServe again",
    ),
    "controller at zero": (
        with_spec("Deployment", "knative-serving/activator", replicas=0),
        "Knative Serving controllers",
        "activator: it has no replicas",
        "kubectl -n knative-serving scale deployment activator --replicas=1",
    ),
    "controller broken": (
        with_failed_condition("Deployment", "kueue-system/kueue-controller-manager", "Available", "no pod"),
        "Kueue controllers",
        "kueue-controller-manager: Broken: no pod",
        "kubectl -n kueue-system describe deployment kueue-controller-manager",
    ),
    "gateway class unknown": (
        with_setting(f"{PLATFORM}/llmariner-settings", "GATEWAY_CLASS", "istio"),
        "gateway class",
        "istio is not there",
        "Set GATEWAY_CLASS in the overlay's settings.env to one of contour",
    ),
    "gateway class not accepted": (
        with_failed_condition("GatewayClass", "contour", "Accepted", "wrong parameters"),
        "gateway class",
        "contour is not accepted (Broken: wrong parameters)",
        "Install an implementation of the Gateway API",
    ),
    "KServe's settings away": (
        without_object("ConfigMap", KSERVE),
        "KServe deployment mode",
        "no ConfigMap",
        "edit configmap",
    ),
    "KServe's mode unknown": (
        with_setting(KSERVE, "deploy", '{"defaultDeploymentMode": "Cloud"}'),
        "KServe deployment mode",
        "Cloud is none",
        "edit configmap inferenceservice-config",
    ),
    "KServe's settings garbage": (
        with_setting(KSERVE, "ingress", "{ingress"),
        "KServe routes",
        "the key `ingress` of inferenceservice-config is no JSON object",
        "edit configmap",
    ),
    "KServe's route would cut": (
        model_without_timeout,
        "KServe routes",
        "route to theirs are cut after 60 s",
        "patch inferenceservice theirs",
    ),
    "node not ready": (unready_node, "nodes", "node-2 is not ready", "kubectl describe node node-2"),
    "no GPU": (
        with_setting(f"{PLATFORM}/llmariner-settings", "LLMARINER_ACCELERATOR", "nvidia"),
        "accelerators",
        "no node that is ready offers nvidia.com/gpu (offered: none)",
        "or set LLMARINER_ACCELERATOR=cpu",
    ),
    "accelerator unknown": (
        with_setting(f"{PLATFORM}/llmariner-settings", "LLMARINER_ACCELERATOR", "tpu"),
        "settings",
        "LLMARINER_ACCELERATOR must be cpu, nvidia, amd or intel-gaudi, not 'tpu'",
        "Correct it in the overlay's settings.env",
    ),
    "no default storage": (
        no_default_class,
        "storage class",
        "none of local is the default, and data-postgres-0 waits for it",
        "patch storageclass local",
    ),
    "volume not bound": (unbound_claim, "storage class", "data-postgres-0", "describe pvc data-postgres-0"),
    "namespace away": (
        without_object("Namespace", MODELS),
        f"namespace {MODELS}",
        "it is not there",
        "kubectl apply -k",
    ),
    "secret away": (
        without_object("Secret", f"{PLATFORM}/llmariner-postgres"),
        "secrets",
        "there is no llmariner-postgres",
        "create secret generic llmariner-postgres --from-literal=host=",
    ),
    "key of a secret away": (empty_secret, "secrets", "llmariner-secrets lacks LLMARINER_PEPPER", "The Job `secrets`"),
    "certificate away": (
        certificate_missing,
        "secrets",
        "there is no llmariner-tls",
        "create secret tls llmariner-tls",
    ),
    "migrations gave up": (
        lambda healthy_cluster: healthy_cluster.set_status(
            "Job",
            f"{PLATFORM}/migrations-0-4-0",
            conditions_status("Failed", message="Job has reached the limit") | {"failed": 21},
        ),
        "migrations job",
        "migrations-0-4-0 gave up: Job has reached the limit",
        "logs job/migrations-0-4-0",
    ),
    "migrations under way": (
        lambda healthy_cluster: healthy_cluster.set_status(
            "Job", f"{PLATFORM}/migrations-0-4-0", {"active": 1, "failed": 2}
        ),
        "migrations job",
        "is not complete, 2 tries failed",
        "logs job/migrations-0-4-0",
    ),
    "function not ready": (
        with_failed_condition(
            SERVICE, f"{PLATFORM}/models", "Ready", 'Unable to fetch image "localhost:5000/models": not found'
        ),
        "functions",
        "models is not ready: Broken: Unable to fetch image",
        "Check IMAGE_REGISTRY",
    ),
    "function away": (
        without_object(SERVICE, f"{PLATFORM}/sweep"),
        "functions",
        "sweep is not there, but requests or events are sent to it",
        "kubectl apply -k",
    ),
    "PgBouncer away": (
        without_object("Deployment", f"{PLATFORM}/pgbouncer"),
        "database",
        "there is no Deployment pgbouncer",
        "kubectl apply -k",
    ),
    "PostgreSQL starting": (
        lambda healthy_cluster: healthy_cluster.set_status("StatefulSet", f"{PLATFORM}/postgres", {"replicas": 1}),
        "database",
        "postgres: 0 of 1 ready",
        "describe statefulset postgres",
    ),
    "Gateway away": (without_object("Gateway", GATEWAY), "gateway", "no Gateway llmariner in", "kubectl apply -k"),
    "Gateway without address": (
        lambda healthy_cluster: healthy_cluster.set_status(
            "Gateway", GATEWAY, conditions_status("Accepted", "Programmed")
        ),
        "gateway",
        "it has no address",
        "a load balancer",
    ),
    "Gateway refused": (
        with_failed_condition("Gateway", GATEWAY, "Accepted", "no class"),
        "gateway",
        "Broken: no class",
        "describe gateway llmariner",
    ),
    "route refused": (route_not_accepted, "routes", "models: NoMatchingListenerHostname", "describe httproute models"),
    "Broker away": (without_object("Broker", f"{PLATFORM}/default"), "broker", "no Broker default", "kubectl apply -k"),
    "Broker not ready": (
        with_failed_condition("Broker", f"{PLATFORM}/default", "Ready", "no channel"),
        "broker",
        "default is not ready: Broken: no channel",
        "describe broker default",
    ),
    "Trigger not ready": (
        with_failed_condition("Trigger", f"{PLATFORM}/sweep", "Ready", "no subscriber"),
        "triggers",
        "sweep is not ready",
        "describe trigger sweep",
    ),
    "source not ready": (
        with_failed_condition("PingSource", f"{PLATFORM}/sweep", "Ready", "no sink"),
        "sources",
        "sweep is not ready",
        "describe pingsource sweep",
    ),
    "events without a sender": (
        events_asked_for_their_sender,
        "event identity",
        "the Broker refuses what functions publish",
        "List components/event-identity in the overlay",
    ),
    "runtime away": (
        without_object("ClusterServingRuntime", "vllm-cpu"),
        "runtimes",
        "no ClusterServingRuntime vllm-cpu",
        "List components/cpu",
    ),
    "runtime disabled": (
        with_spec("ClusterServingRuntime", "vllm-cpu", disabled=True),
        "runtimes",
        "vllm-cpu is disabled",
        "patch clusterservingruntime vllm-cpu",
    ),
    "queue away": (
        without_object("LocalQueue", f"{MODELS}/cpu"),
        "queue",
        "no LocalQueue cpu",
        "List components/kueue/cpu",
    ),
    "queue closed": (
        with_failed_condition("ClusterQueue", "llmariner-cpu", "Active", "flavor not found"),
        "queue",
        "cpu: Broken: flavor not found",
        "describe clusterqueue llmariner-cpu",
    ),
    "Kueue blind": (
        with_setting(
            "kueue-system/kueue-manager-config",
            "controller_manager_config.yaml",
            "integrations: {frameworks: [batch/job, pod]}",
        ),
        "Kueue frameworks",
        "doesn't look at deployment",
        "integrations.frameworks",
    ),
}
