"""The manifests of each part, from the pinned sources, fitted to this cluster."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from .certificates import Authority
from .images import ENVOY_IMAGE
from .ingress import CLASS, GATEWAY
from .manifests import CRD, Manifest, fitted, image, of_kind, read, rendered, without
from .places import Lab
from .program_builds import module

__all__ = ["DOMAIN", "custom_resources", "eventing", "gateway", "kserve", "kueue", "serving"]

# What public addresses of Knative services end with.
DOMAIN = "lab.internal"

_GATEWAY_CLASS = "contour"
_CONTOUR_NAMESPACE = "projectcontour"
_WEBHOOK_CERTIFICATE = "kserve-webhook-server-cert"


def gateway() -> list[Manifest]:
    """Contour as the implementation of the Gateway API: every Gateway of class `contour` gets its proxy.

    One shared Gateway carries Knative's services and KServe's models; a platform brings its own for the public.
    """
    examples = module("contour") / "examples"
    contour = image("contour", "contour")

    def local(each: Manifest) -> None:
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            container["image"] = contour
            container["args"] = [
                "gateway-provisioner",
                "--metrics-addr=127.0.0.1:8080",
                f"--contour-image={contour}",
                f"--envoy-image={ENVOY_IMAGE}",
            ]

    kinds = module("kserve", "sigs.k8s.io/gateway-api") / "config" / "crd"
    return [
        *of_kind(read(kinds / "standard"), CRD),
        # Contour doesn't start without it. The policy against mixing both sets is left out for this.
        *read(kinds / "experimental" / "gateway.networking.k8s.io_tcproutes.yaml"),
        *of_kind(read(examples / "contour" / "01-crds.yaml"), CRD),
        *fitted(read(examples / "gateway-provisioner"), local),
        *_shared_gateway(),
    ]


def serving() -> list[Manifest]:
    """Knative Serving, with the kinds that its release takes from its sister modules."""
    values = {
        "config-network": {"ingress-class": CLASS},
        "config-domain": {DOMAIN: ""},
        "config-deployment": {
            "queue-sidecar-image": image("serving", "queue"),
            # There is no registry to ask; a name that begins with localhost/ counts as one of Docker's.
            "registries-skipping-tag-resolving": "kind.local,ko.local,dev.local,index.docker.io",
            "queue-sidecar-cpu-request": "5m",
            "queue-sidecar-memory-request": "16Mi",
        },
    }
    objects = read(
        module("serving") / "config" / "core",
        module("serving", "knative.dev/caching") / "config",
        module("serving", "knative.dev/networking") / "config",
    )
    # The image cache's own object names an image for a puller that isn't here.
    return fitted((each for each in objects if each["kind"] != "Image"), lambda each: _configure(each, values))


def eventing() -> list[Manifest]:
    """Knative Eventing with the channel-based broker and the in-memory channel.

    The parts that need other images (event transformations, request and reply) are left out.
    """
    config = module("eventing") / "config"
    objects = read(
        config / "core",
        config / "channels" / "in-memory-channel",
        config / "brokers" / "mt-channel-broker",
        # The controller does not start without the names of images that are pulled only when they are used.
        config.parent / "third_party" / "eventing-integrations-latest",
    )
    return fitted(without(objects, "request-reply", "request-reply-keys"))


def kserve(lab: Lab) -> list[Manifest]:
    """KServe's controller in Standard mode, its kinds with full schemas, and those of its optional parts."""
    config = module("kserve") / "config"
    objects = [
        *rendered(config / "overlays" / "standalone" / "kserve"),
        *rendered(config / "crd" / "full" / "llmisvc"),
        *rendered(config / "crd" / "full" / "localmodel"),
    ]
    authority = Authority(lab.certificates)
    host = "kserve-webhook-server-service.kserve.svc"
    certificate = authority.sign("kserve-webhook", common_name=host, hosts=(host,))
    trusted = _encoded(authority.certificate)

    def local(each: Manifest) -> None:
        for webhook in each.get("webhooks", []):
            webhook["clientConfig"]["caBundle"] = trusted
        if each["kind"] == "Deployment":
            _without_proxy(each["spec"]["template"]["spec"])
        if each["metadata"]["name"] == "inferenceservice-config":
            _standard_mode(each["data"])

    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _WEBHOOK_CERTIFICATE, "namespace": "kserve"},
        "data": {"tls.crt": _encoded(certificate), "tls.key": _encoded(certificate.with_suffix(".key"))},
    }
    kept = [each for each in objects if not each["apiVersion"].startswith("cert-manager.io/")]
    return [*fitted(kept, local), secret]


def kueue() -> list[Manifest]:
    """Kueue, with its view of waiting workloads."""

    def local(each: Manifest) -> None:
        if each["kind"] == "Deployment":
            each["spec"]["template"]["spec"]["containers"][0]["image"] = image("kueue", "kueue")

    return fitted(rendered(module("kueue") / "config" / "default"), local)


def custom_resources(lab: Lab) -> list[Manifest]:
    """The definitions of every kind."""
    return of_kind([*gateway(), *serving(), *eventing(), *kserve(lab), *kueue()], CRD)


def _shared_gateway() -> list[Manifest]:
    group = "gateway.networking.k8s.io"
    small = {"requests": {"cpu": "5m", "memory": "32Mi"}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": GATEWAY["namespace"]}},
        {
            "apiVersion": "projectcontour.io/v1alpha1",
            "kind": "ContourDeployment",
            "metadata": {"name": _GATEWAY_CLASS, "namespace": _CONTOUR_NAMESPACE},
            "spec": {
                # Names of services elsewhere: Knative's domain mappings lead to such.
                "runtimeSettings": {"enableExternalNameService": True},
                # Contour asks for versions of these kinds that the standard set no longer serves.
                "contour": {
                    "deployment": {"replicas": 1},
                    "resources": small,
                    "disabledFeatures": ["tlsroutes", "backendtlspolicies"],
                },
                "envoy": {"workloadType": "Deployment", "deployment": {"replicas": 1}, "resources": small},
            },
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": _GATEWAY_CLASS},
            "spec": {
                "controllerName": "projectcontour.io/gateway-controller",
                "parametersRef": {
                    "group": "projectcontour.io",
                    "kind": "ContourDeployment",
                    "name": _GATEWAY_CLASS,
                    "namespace": _CONTOUR_NAMESPACE,
                },
            },
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "Gateway",
            "metadata": GATEWAY,
            "spec": {
                "gatewayClassName": _GATEWAY_CLASS,
                "listeners": [
                    {
                        "name": "http",
                        "port": 80,
                        "protocol": "HTTP",
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
    ]


def _configure(each: Manifest, values: dict[str, dict[str, str]]) -> None:
    """Set options of Knative's configuration; its example stays, since its checksum is in an annotation."""
    if each["kind"] == "ConfigMap":
        each.setdefault("data", {}).update(values.get(each["metadata"]["name"], {}))


def _without_proxy(pod: dict[str, Any]) -> None:
    """The sidecar that guards the metrics is of another project; the cluster's only user is the administrator."""
    pod["containers"] = [each for each in pod["containers"] if each["name"] != "kube-rbac-proxy"]
    for container in pod["containers"]:
        container["image"] = image("kserve", "manager")
        for probe in ("livenessProbe", "readinessProbe"):
            container[probe]["initialDelaySeconds"] = 1


def _standard_mode(data: dict[str, str]) -> None:
    ingress = json.loads(data["ingress"])
    ingress |= {
        "enableGatewayApi": True,
        "kserveIngressGateway": f"{GATEWAY['namespace']}/{GATEWAY['name']}",
        "ingressDomain": DOMAIN,
        "disableIstioVirtualHost": True,
        "disableHTTPRouteTimeout": True,
    }
    data["ingress"] = json.dumps(ingress)
    data["deploy"] = json.dumps({"defaultDeploymentMode": "Standard"})


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
