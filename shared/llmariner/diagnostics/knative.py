"""How Knative is set, and whether it runs."""

from __future__ import annotations

from collections.abc import Iterator

from llmariner.diagnostics.api_resources import BROKERS, FUNCTIONS
from llmariner.diagnostics.controllers import broken
from llmariner.diagnostics.result import Body, Finding, failed, named, ok
from llmariner.diagnostics.snapshot import spec
from llmariner.diagnostics.target import Place, patch
from llmariner.platform.kube.resources import CONFIG_MAPS, DEPLOYMENTS

__all__ = ["FLAGS", "LONGEST_SECONDS", "broker_class", "features", "ingress", "longest_request", "scale_to_zero"]

SERVING, EVENTING = "knative-serving", "knative-eventing"
LONGEST_SECONDS = 14400
"""What the token path declares: `manifests/prerequisites/config-defaults.yaml`."""

FLAGS = ("kubernetes.podspec-topologyspreadconstraints",)
"""What Knative refuses unless it is told to take it: `manifests/prerequisites/config-features.yaml`."""

# What it takes unless it is told not to.
_KEPT = ("kubernetes.podspec-volumes-emptydir",)
_KNATIVE_LONGEST = "600"
_CLASS_SUFFIX = ".ingress.networking.knative.dev"
# Of each ingress: the controller's Deployment, in `knative-serving`.
_INGRESSES = {
    "kourier": "net-kourier-controller",
    "contour": "net-contour-controller",
    "gateway-api": "net-gateway-api-controller",
    "istio": "net-istio-controller",
}
_BROKERS = {
    "MTChannelBasedBroker": ("mt-broker-controller", "mt-broker-filter", "mt-broker-ingress"),
    "Kafka": ("kafka-broker-receiver", "kafka-controller"),
}
_CLASS = "eventing.knative.dev/broker.class"


def longest_request(place: Place) -> Iterator[Finding]:
    """That Knative admits requests as long as our functions declare them."""
    check, key = "longest request", "max-revision-timeout-seconds"
    if not place.has("Knative Serving"):
        return
    data = _data(place, "config-defaults")
    declared = [
        int(spec(each).get("template", {}).get("spec", {}).get("timeoutSeconds") or 0)
        for each in (place.reading.all(FUNCTIONS, place.namespace) if place.installed else ())
    ]
    # A Knative that was set too low has refused just the longest ones: they are not among what is there.
    wanted = max([LONGEST_SECONDS, *declared])
    value = data.get(key, _KNATIVE_LONGEST)
    if value.strip().isdecimal() and int(value) >= wanted:
        yield ok(check, f"{value} s")
        return
    said = f"{key} is {value}" + ("" if key in data else " (unset)")
    yield failed(check, f"{said}; functions need {wanted}", patch(SERVING, "config-defaults", key, str(wanted)))


def features(place: Place) -> Iterator[Finding]:
    """That Knative takes the fields that our functions set."""
    if not place.has("Knative Serving"):
        return
    data = _data(place, "config-features")
    off = [flag for flag in FLAGS if data.get(flag, "disabled").lower() not in ("enabled", "allowed")]
    off += [flag for flag in _KEPT if data.get(flag, "enabled").lower() == "disabled"]
    for flag in off:
        yield failed("feature flags", f"{flag} is not enabled", patch(SERVING, "config-features", flag, "enabled"))
    if not off:
        yield ok("feature flags", named([*FLAGS, *_KEPT]))


def scale_to_zero(place: Place) -> Iterator[Finding]:
    """That idle functions end."""
    key = "enable-scale-to-zero"
    if not place.has("Knative Serving"):
        return
    if _data(place, "config-autoscaler").get(key, "true").lower() == "false":
        yield failed("scale to zero", f"{key} is false", patch(SERVING, "config-autoscaler", key, "true"))
    else:
        yield ok("scale to zero", "on")


def ingress(place: Place) -> Iterator[Finding]:
    """That the ingress class which Knative uses has a controller."""
    check, key = "ingress class", "ingress-class"
    if not place.has("Knative Serving"):
        return
    data = _data(place, "config-network")
    value = data.get(key) or data.get("ingress.class") or f"istio{_CLASS_SUFFIX}"
    running = {each["metadata"]["name"] for each in place.reading.all(DEPLOYMENTS, SERVING) if not broken(each)}
    controller = _INGRESSES.get(value.removesuffix(_CLASS_SUFFIX))
    there = [name for name, each in _INGRESSES.items() if each in running]
    if controller in running:
        yield ok(check, value)
    elif controller is None and value.endswith(_CLASS_SUFFIX):
        yield ok(check, f"{value}, which is not one that we know")
    elif there:
        said = value if key in data else f"{value} (unset, so Knative's own)"
        yield failed(
            check,
            f"{said} has no controller that runs",
            patch(SERVING, "config-network", key, f"{there[0]}{_CLASS_SUFFIX}"),
        )
    else:
        yield failed(
            check,
            f"{value} has no controller that runs",
            "Install an ingress of Knative, such as Kourier (https://knative.dev/docs/install/), and set its class: "
            + patch(SERVING, "config-network", key, f"kourier{_CLASS_SUFFIX}"),
        )


def broker_class(place: Place) -> Iterator[Finding]:
    """That Brokers of our class are made: of the one that is installed, or of any."""
    check = "broker class"
    if not place.has("Knative Eventing"):
        return
    running = {each["metadata"]["name"] for each in place.reading.all(DEPLOYMENTS, EVENTING) if not broken(each)}
    able = [name for name, wanted in _BROKERS.items() if running.issuperset(wanted)]
    ours = place.reading.all(BROKERS, place.namespace) if place.installed else []
    classes = {(each["metadata"].get("annotations") or {}).get(_CLASS, "MTChannelBasedBroker") for each in ours}
    missing = sorted((classes & _BROKERS.keys()) - set(able))
    for name in missing:
        absent = named(set(_BROKERS[name]) - running)
        yield failed(check, f"{name}: in {EVENTING} there is no running {absent}", _bring(name))
    if not classes and not able:
        yield failed(check, "no Broker class is there", _bring("MTChannelBasedBroker"))
    elif not missing:
        yield ok(check, named(classes or able))


def _bring(name: str) -> str:
    if name == "Kafka":
        return "Install eventing-kafka-broker: https://knative.dev/docs/eventing/brokers/broker-types/kafka-broker/"
    return (
        "Install mt-channel-broker.yaml and in-memory-channel.yaml of Knative Eventing's release: "
        "https://knative.dev/docs/install/"
    )


def _data(place: Place, name: str) -> dict[str, str]:
    """A ConfigMap of Knative Serving; one that isn't there says nothing, so Knative's own values count."""
    found: Body = place.reading.one(CONFIG_MAPS, SERVING, name) or {}
    return found.get("data") or {}
