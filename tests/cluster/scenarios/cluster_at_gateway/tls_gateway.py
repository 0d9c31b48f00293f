"""The Gateway of an installed platform with TLS, as people and agents outside of its cluster reach it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from llmariner.manifests.installation import GATEWAY, GATEWAY_NAMESPACE, NAMESPACE

from ...lab.certificates import Authority
from ...lab.kubectl import apply, get, kubectl
from ...lab.places import Lab
from ...lab.wait import until
from ...platform.installed import Installed
from ..relay import Relay
from ..two_clusters.worker import CERTIFICATE

__all__ = ["TlsGateway", "tls_gateway"]

_NAME, _SERVICE, _LISTENER = "llmariner-tls", "llmariner-gateway", "tls"
_GATEWAY = ("gateway.gateway.networking.k8s.io", GATEWAY, "-n", GATEWAY_NAMESPACE)


@dataclass(frozen=True)
class TlsGateway:
    """Its URLs, for people on this machine and for pods of the worker cluster."""

    here: str
    there: str


@contextlib.contextmanager
def tls_gateway(installed: Installed, folder: Path, worker: Lab) -> Iterator[TlsGateway]:
    """Ports of this machine that lead to the Gateway's TLS, as a load balancer before it.

    Names lead to them, since Contour refuses requests whose host is not the one of the TLS handshake, and that has no
    addresses. The certificate is signed by an authority of its own, which is `CERTIFICATE` in `folder`.
    """
    authority, there = Authority(folder / "pki"), f"{_SERVICE}.default.svc.cluster.local"
    certificate = authority.sign("gateway", common_name="gateway", hosts=("localhost", there))
    shutil.copy(authority.certificate, folder / CERTIFICATE)
    files = {"tls.crt": certificate, "tls.key": certificate.with_suffix(".key")}
    data = {name: base64.b64encode(file.read_bytes()).decode() for name, file in files.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "data": data}
    found = get(installed.lab, *_GATEWAY)["spec"]["listeners"]
    listeners = [each for each in found if each["name"] != _LISTENER]  # a run that was killed leaves it
    tls = {"mode": "Terminate", "certificateRefs": [{"name": _NAME}]}
    added = {**listeners[0], "name": _LISTENER, "port": 443, "protocol": "HTTPS", "tls": tls}
    try:
        apply(installed.lab, [{**secret, "metadata": {"name": _NAME, "namespace": GATEWAY_NAMESPACE}}])
        _listen(installed, [*listeners, added])
        _route(installed, [listeners[0]["name"], _LISTENER])
        until("the Gateway speaks TLS", lambda: _not_programmed(installed))
        with Relay() as inner, Relay(worker.host_address) as outer:
            for each in (inner, outer):
                each.to(installed.address, 443)
            apply(worker, _name(worker.host_address))
            ports = [urlsplit(each.url).port for each in (inner, outer)]
            # Programmed is what its controller wrote; its proxy listens a moment later.
            until("the Gateway answers over TLS", lambda: _refused(f"https://localhost:{ports[0]}", authority))
            yield TlsGateway(f"https://localhost:{ports[0]}", f"https://{there}:{ports[1]}")
    finally:
        kubectl(worker, "delete", "service,endpointslice", _SERVICE, "-n", "default", "--ignore-not-found")
        _route(installed, [listeners[0]["name"]])
        _listen(installed, listeners)
        kubectl(installed.lab, "delete", "secret", _NAME, "-n", GATEWAY_NAMESPACE, "--ignore-not-found")


def _name(address: str) -> list[dict[str, Any]]:
    """A name for an address of this machine, in the worker cluster's own name server."""
    labels = {"kubernetes.io/service-name": _SERVICE}
    metadata = {"name": _SERVICE, "namespace": "default"}
    endpoints = {"addressType": "IPv4", "endpoints": [{"addresses": [address]}], "ports": [{"port": 443}]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"clusterIP": "None"}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {**metadata, "labels": labels}}
        | endpoints,
    ]


def _refused(url: str, authority: Authority) -> str | None:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    try:
        answer = httpx2.get(f"{url}/v1/clusters", verify=context, timeout=30)
    except httpx2.TransportError as error:
        return str(error)
    return None if answer.status_code == HTTPStatus.UNAUTHORIZED else answer.text


def _listen(installed: Installed, listeners: list[object]) -> None:
    change = [{"op": "replace", "path": "/spec/listeners", "value": listeners}]
    kubectl(installed.lab, "patch", *_GATEWAY, "--type=json", "-p", json.dumps(change))


def _route(installed: Installed, listeners: list[str]) -> None:
    """Let the functions' routes belong to these listeners: without a route, Contour does not listen.

    The namespace has routes of Knative's local gateway, too, which has no such listeners.
    """
    routes = get(installed.lab, "httproutes.gateway.networking.k8s.io", "-n", NAMESPACE)
    routes["items"] = [each for each in routes["items"] if _at(each, listeners[0])]
    for route in routes["items"]:
        # Contour writes the status of a route at any time.
        del route["metadata"]["resourceVersion"]
        parent = route["spec"]["parentRefs"][0]
        route["spec"]["parentRefs"] = [{**parent, "sectionName": name} for name in listeners]
    kubectl(installed.lab, "replace", "-f", "-", text=json.dumps(routes), seconds=300)


def _at(route: dict[str, Any], listener: str) -> bool:
    """Whether it belongs to the platform's Gateway, and of its listeners to this one first."""
    parent = route["spec"]["parentRefs"][0]
    return parent["name"] == GATEWAY and parent.get("sectionName") in (None, listener)


def _not_programmed(installed: Installed) -> str | None:
    listeners = get(installed.lab, *_GATEWAY).get("status", {}).get("listeners", ())
    conditions = [c for each in listeners if each["name"] == _LISTENER for c in each["conditions"]]
    return None if any(c["type"] == "Programmed" and c["status"] == "True" for c in conditions) else str(conditions)
