"""The manifests of each part, from the pinned sources."""

from __future__ import annotations

from .building import module
from .manifests import CRD, Manifest, of_kind, read, rendered

__all__ = ["custom_resources", "eventing", "gateway", "kserve", "kueue", "serving"]


def gateway() -> list[Manifest]:
    """The Gateway API's standard kinds, at the version that KServe is built against."""
    return read(module("kserve", "sigs.k8s.io/gateway-api") / "config" / "crd" / "standard")


def serving() -> list[Manifest]:
    """Knative Serving, with the kinds that its release takes from its sister modules."""
    networking = module("serving", "knative.dev/networking") / "config"
    return read(
        module("serving") / "config" / "core",
        module("serving", "knative.dev/caching") / "config",
        networking,
    )


def eventing() -> list[Manifest]:
    """Knative Eventing with the channel-based broker and the in-memory channel."""
    config = module("eventing") / "config"
    return read(config / "core", config / "channels" / "in-memory-channel", config / "brokers" / "mt-channel-broker")


def kserve() -> list[Manifest]:
    """KServe's controller, its kinds with full schemas, and those of its optional parts."""
    config = module("kserve") / "config"
    return [
        *rendered(config / "overlays" / "standalone" / "kserve"),
        *rendered(config / "crd" / "full"),
        *rendered(config / "crd" / "full" / "llmisvc"),
        *rendered(config / "crd" / "full" / "localmodel"),
    ]


def kueue() -> list[Manifest]:
    """Kueue."""
    return rendered(module("kueue") / "config" / "default")


def custom_resources() -> list[Manifest]:
    """The definitions of every kind."""
    parts = (gateway, serving, eventing, kserve, kueue)
    return [each for part in parts for each in of_kind(part(), CRD)]
