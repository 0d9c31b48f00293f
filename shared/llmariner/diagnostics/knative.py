"""Checks of Knative's configuration, ingress and Broker classes."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.api_resources import BROKERS, KNATIVE_SERVICES
from llmariner.diagnostics.controllers import deployment_problem
from llmariner.diagnostics.result import Body, CheckResult, failed, join_names, ok
from llmariner.diagnostics.snapshot import spec
from llmariner.diagnostics.target import Target, patch_command
from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS

__all__ = [
    "FEATURE_FLAGS",
    "MAX_REQUEST_SECONDS",
    "broker_class",
    "features",
    "ingress",
    "longest_request",
    "scale_to_zero",
]

SERVING_NAMESPACE, EVENTING_NAMESPACE = "knative-serving", "knative-eventing"
MAX_REQUEST_SECONDS = 14400
"""The longest timeout that a function declares: `manifests/prerequisites/config-defaults.yaml`."""

FEATURE_FLAGS = ("kubernetes.podspec-topologyspreadconstraints",)
"""Feature flags that are off by default and must be enabled: `manifests/prerequisites/config-features.yaml`."""

# Feature flags that are on by default and must stay so.
_DEFAULT_ENABLED_FLAGS = ("kubernetes.podspec-volumes-emptydir",)
_KNATIVE_DEFAULT_TIMEOUT = "600"
_INGRESS_CLASS_SUFFIX = ".ingress.networking.knative.dev"
# Ingress → its controller's Deployment in `knative-serving`.
_INGRESS_CONTROLLERS = {
    "kourier": "net-kourier-controller",
    "contour": "net-contour-controller",
    "gateway-api": "net-gateway-api-controller",
    "istio": "net-istio-controller",
}
_BROKER_DEPLOYMENTS = {
    "MTChannelBasedBroker": ("mt-broker-controller", "mt-broker-filter", "mt-broker-ingress"),
    "Kafka": ("kafka-broker-receiver", "kafka-controller"),
}
_BROKER_CLASS_ANNOTATION = "eventing.knative.dev/broker.class"


def longest_request(target: Target) -> Iterator[CheckResult]:
    """Knative's maximum timeout admits the timeouts that the functions declare."""
    check, key = "longest request", "max-revision-timeout-seconds"
    if not target.has_dependency("Knative Serving"):
        return
    data = _config_map_data(target, "config-defaults")
    declared = [
        int(spec(each).get("template", {}).get("spec", {}).get("timeoutSeconds") or 0)
        for each in (target.snapshot.list_objects(KNATIVE_SERVICES, target.namespace) if target.installed else ())
    ]
    # A limit that is too low rejects the longest functions, so existing ones alone do not show it.
    wanted = max([MAX_REQUEST_SECONDS, *declared])
    value = data.get(key, _KNATIVE_DEFAULT_TIMEOUT)
    if value.strip().isdecimal() and int(value) >= wanted:
        yield ok(check, f"{value} s")
        return
    current = f"{key} is {value}" + ("" if key in data else " (unset)")
    yield failed(
        check,
        f"{current}; functions need {wanted}",
        patch_command(SERVING_NAMESPACE, "config-defaults", key, str(wanted)),
    )


def features(target: Target) -> Iterator[CheckResult]:
    """Knative admits the pod fields that the functions set."""
    if not target.has_dependency("Knative Serving"):
        return
    data = _config_map_data(target, "config-features")
    disabled = [flag for flag in FEATURE_FLAGS if data.get(flag, "disabled").lower() not in ("enabled", "allowed")]
    disabled += [flag for flag in _DEFAULT_ENABLED_FLAGS if data.get(flag, "enabled").lower() == "disabled"]
    for flag in disabled:
        yield failed(
            "feature flags",
            f"{flag} is not enabled",
            patch_command(SERVING_NAMESPACE, "config-features", flag, "enabled"),
        )
    if not disabled:
        yield ok("feature flags", join_names([*FEATURE_FLAGS, *_DEFAULT_ENABLED_FLAGS]))


def scale_to_zero(target: Target) -> Iterator[CheckResult]:
    """Scale to zero is enabled."""
    key = "enable-scale-to-zero"
    if not target.has_dependency("Knative Serving"):
        return
    if _config_map_data(target, "config-autoscaler").get(key, "true").lower() == "false":
        yield failed(
            "scale to zero", f"{key} is false", patch_command(SERVING_NAMESPACE, "config-autoscaler", key, "true")
        )
    else:
        yield ok("scale to zero", "on")


def ingress(target: Target) -> Iterator[CheckResult]:
    """The ingress class that Knative uses has a running controller."""
    check, key = "ingress class", "ingress-class"
    if not target.has_dependency("Knative Serving"):
        return
    data = _config_map_data(target, "config-network")
    value = data.get(key) or data.get("ingress.class") or f"istio{_INGRESS_CLASS_SUFFIX}"
    running = {
        each["metadata"]["name"]
        for each in target.snapshot.list_objects(DEPLOYMENTS, SERVING_NAMESPACE)
        if not deployment_problem(each)
    }
    controller = _INGRESS_CONTROLLERS.get(value.removesuffix(_INGRESS_CLASS_SUFFIX))
    existing = [name for name, each in _INGRESS_CONTROLLERS.items() if each in running]
    if controller in running:
        yield ok(check, value)
    elif controller is None and value.endswith(_INGRESS_CLASS_SUFFIX):
        yield ok(check, f"{value}, which is not one that we know")
    elif existing:
        current = value if key in data else f"{value} (unset, so Knative's own)"
        yield failed(
            check,
            f"{current} has no controller that runs",
            patch_command(SERVING_NAMESPACE, "config-network", key, f"{existing[0]}{_INGRESS_CLASS_SUFFIX}"),
        )
    else:
        yield failed(
            check,
            f"{value} has no controller that runs",
            "Install an ingress of Knative, such as Kourier (https://knative.dev/docs/install/), and set its class: "
            + patch_command(SERVING_NAMESPACE, "config-network", key, f"kourier{_INGRESS_CLASS_SUFFIX}"),
        )


def broker_class(target: Target) -> Iterator[CheckResult]:
    """A controller runs for the Broker class of the installation, or for any before one exists."""
    check = "broker class"
    if not target.has_dependency("Knative Eventing"):
        return
    running = {
        each["metadata"]["name"]
        for each in target.snapshot.list_objects(DEPLOYMENTS, EVENTING_NAMESPACE)
        if not deployment_problem(each)
    }
    available = [name for name, wanted in _BROKER_DEPLOYMENTS.items() if running.issuperset(wanted)]
    brokers = target.snapshot.list_objects(BROKERS, target.namespace) if target.installed else []
    classes = {
        (each["metadata"].get("annotations") or {}).get(_BROKER_CLASS_ANNOTATION, "MTChannelBasedBroker")
        for each in brokers
    }
    missing = sorted((classes & _BROKER_DEPLOYMENTS.keys()) - set(available))
    for name in missing:
        absent = join_names(set(_BROKER_DEPLOYMENTS[name]) - running)
        yield failed(check, f"{name}: in {EVENTING_NAMESPACE} there is no running {absent}", _install_command(name))
    if not classes and not available:
        yield failed(check, "no Broker class is there", _install_command("MTChannelBasedBroker"))
    elif not missing:
        yield ok(check, join_names(classes or available))


def _install_command(name: str) -> str:
    if name == "Kafka":
        return "Install eventing-kafka-broker: https://knative.dev/docs/eventing/brokers/broker-types/kafka-broker/"
    return (
        "Install mt-channel-broker.yaml and in-memory-channel.yaml of Knative Eventing's release: "
        "https://knative.dev/docs/install/"
    )


def _config_map_data(target: Target, name: str) -> dict[str, str]:
    """The data of a ConfigMap of Knative Serving; empty where it does not exist, so that Knative's defaults apply."""
    found: Body = target.snapshot.find_object(CONFIG_MAPS, SERVING_NAMESPACE, name) or {}
    return found.get("data") or {}
