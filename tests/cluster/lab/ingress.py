"""Knative's ingress controller for the test cluster.

`python -m tests.cluster.lab.ingress` turns each Knative ingress into Gateway API routes of the shared gateway, and gives
load balancers their addresses.

Knative's own ingress controllers (net-kourier, net-gateway-api, net-contour, net-istio) are not served as modules; this
does the part of net-gateway-api that Knative Serving relies on: routes by host, path and header, splits, headers, host
rewrites, and readiness only once a probe through the proxy has come back with the hash of what was asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import queue
import sys
import threading
import time
from typing import Any

from .api import Api, ApiError
from .places import Lab

__all__ = ["CLASS", "GATEWAY", "routes"]

CLASS = "lab.ingress.networking.knative.dev"
GATEWAY = {"namespace": "knative-gateway", "name": "knative-local"}
_SERVICE = f"envoy-{GATEWAY['name']}"
_OWNER = "networking.internal.knative.dev/ingress"
_MANAGER = "lab-ingress"
_RETRY_SECONDS = 0.3
_PROBE_SECONDS = 5
# Of one call to the API server; the next one may succeed.
_FAILURES = (ApiError, OSError, http.client.HTTPException, ValueError)

Manifest = dict[str, Any]


def routes(ingress: Manifest) -> tuple[list[Manifest], str]:
    """The routes that carry out an ingress, one per rule, and the hash that a probe must bring back."""
    meta = ingress["metadata"]
    wanted = json.dumps([meta["namespace"], meta["name"], ingress["spec"]], sort_keys=True)
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": f"{meta['name']}-{number}",
                "namespace": meta["namespace"],
                "labels": {_OWNER: meta["name"]},
                "ownerReferences": [
                    {
                        "apiVersion": ingress["apiVersion"],
                        "kind": ingress["kind"],
                        "name": meta["name"],
                        "uid": meta["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": {
                "parentRefs": [{**GATEWAY, "group": "gateway.networking.k8s.io", "kind": "Gateway"}],
                "hostnames": rule["hosts"],
                "rules": [
                    _rule(path, probe) for path in rule["http"]["paths"] for probe in ({"K-Network-Hash": digest}, {})
                ],
            },
        }
        for number, rule in enumerate(ingress["spec"].get("rules", []))
    ], digest


def _rule(path: Manifest, probe: dict[str, str]) -> Manifest:
    """One rule of a route; with `probe`, the rule for Knative's probes only, which returns the hash that they expect."""
    headers = {name: match["exact"] for name, match in path.get("headers", {}).items()}
    headers |= dict.fromkeys(probe, "override")
    match: Manifest = {"path": {"type": "PathPrefix", "value": path.get("path") or "/"}}
    if headers:
        match["headers"] = [{"type": "Exact", "name": name, "value": value} for name, value in headers.items()]
    filters = _setting({**path.get("appendHeaders", {}), **probe})
    if path.get("rewriteHost"):
        filters.append({"type": "URLRewrite", "urlRewrite": {"hostname": path["rewriteHost"]}})
    return {
        "matches": [match],
        "filters": filters,
        # A revision's own limits end a request; the gateway adds none.
        "timeouts": {"request": "0s"},
        "backendRefs": [
            {
                "group": "",
                "kind": "Service",
                "name": split["serviceName"],
                "namespace": split["serviceNamespace"],
                "port": split["servicePort"],
                "weight": split.get("percent", 100),
                "filters": _setting(split.get("appendHeaders", {})),
            }
            for split in path["splits"]
        ],
    }


def _setting(headers: dict[str, str]) -> list[Manifest]:
    named = [{"name": name, "value": value} for name, value in headers.items()]
    return [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": named}}] if named else []


class Carrier:
    """Applies ingresses one by one, and repeats those that are not ready yet."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._changes: queue.Queue[Manifest] = queue.Queue()
        self._pending: dict[tuple[str, str], Manifest] = {}

    def run(self) -> None:
        """Until the process ends."""
        for path, take in (
            ("/apis/networking.internal.knative.dev/v1alpha1/ingresses", self._changes.put),
            ("/api/v1/services", self._give_address),
        ):
            threading.Thread(target=self._follow, args=(path, take), daemon=True).start()
        while True:
            self._take_changes()
            for key, ingress in list(self._pending.items()):
                try:
                    if self._carry_out(ingress):
                        del self._pending[key]
                except _FAILURES as error:
                    _say(f"{key}: {error}")
                    if isinstance(error, ApiError) and error.status == http.HTTPStatus.NOT_FOUND:
                        del self._pending[key]

    def _take_changes(self) -> None:
        """Wait for a change, for long only when nothing is pending, and take all there are."""
        try:
            change = self._changes.get(timeout=_RETRY_SECONDS if self._pending else None)
            while True:
                meta = change["object"]["metadata"]
                if change["deleted"] or meta.get("deletionTimestamp"):
                    self._pending.pop((meta["namespace"], meta["name"]), None)
                elif meta.get("annotations", {}).get("networking.knative.dev/ingress.class") == CLASS:
                    self._pending[meta["namespace"], meta["name"]] = change["object"]
                change = self._changes.get_nowait()
        except queue.Empty:
            pass

    def _follow(self, path: str, take: Any) -> None:
        while True:
            try:
                for change in self._api.watch(path):
                    take(change)
            except _FAILURES as error:
                _say(f"watch of {path}: {error}")
            time.sleep(1)

    def _carry_out(self, ingress: Manifest) -> bool:
        """Write the routes and the status; True once that is so in the proxy, too."""
        status = ingress.get("status", {})
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))
        if ready and status.get("observedGeneration") == ingress["metadata"]["generation"]:
            return True
        wanted, digest = routes(ingress)
        written = [self._api.apply(_route_path(route), route, _MANAGER) for route in wanted]
        self._drop_others(ingress, {route["metadata"]["name"] for route in wanted})
        carried = all(_accepted(route) for route in written) and self._probed(ingress, digest)
        self._report(ingress, ready=carried)
        return carried

    def _drop_others(self, ingress: Manifest, kept: set[str]) -> None:
        meta = ingress["metadata"]
        base = f"/apis/gateway.networking.k8s.io/v1/namespaces/{meta['namespace']}/httproutes"
        for route in self._api.get(f"{base}?labelSelector={_OWNER}%3D{meta['name']}")["items"]:
            if route["metadata"]["name"] not in kept:
                self._api.delete(f"{base}/{route['metadata']['name']}")

    def _probed(self, ingress: Manifest, digest: str) -> bool:
        """Whether a request to each host arrives by the present routes."""
        service = self._api.get(f"/api/v1/namespaces/{GATEWAY['namespace']}/services/{_SERVICE}")
        hosts = [(rule["hosts"][0], path) for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
        return all(_probe(service["spec"]["clusterIP"], host, path, digest) for host, path in hosts)

    def _report(self, ingress: Manifest, *, ready: bool) -> None:
        meta = ingress["metadata"]
        value = {"status": "True" if ready else "Unknown", "reason": "" if ready else "Uninitialized"}
        before = {each["type"]: each for each in ingress.get("status", {}).get("conditions", [])}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        same = all(before.get(kind, {}).get("status") == value["status"] for kind in ("Ready",))
        if same and ingress.get("status", {}).get("observedGeneration") == meta["generation"]:
            return
        internal = {"domainInternal": f"{_SERVICE}.{GATEWAY['namespace']}.svc.cluster.local"}
        status = {
            "observedGeneration": meta["generation"],
            "conditions": [
                {"type": kind, "lastTransitionTime": now, **{key: text for key, text in value.items() if text}}
                for kind in ("LoadBalancerReady", "NetworkConfigured", "Ready")
            ],
            "publicLoadBalancer": {"ingress": [internal]},
            "privateLoadBalancer": {"ingress": [internal]},
        }
        path = f"/apis/networking.internal.knative.dev/v1alpha1/namespaces/{meta['namespace']}/ingresses/{meta['name']}"
        ingress["status"] = self._api.merge(f"{path}/status", {"status": status})["status"]

    def _give_address(self, change: Manifest) -> None:
        """A load balancer's address is the service's own: the host has a route to it."""
        service = change["object"]
        meta, spec = service["metadata"], service["spec"]
        given = service.get("status", {}).get("loadBalancer", {}).get("ingress")
        if change["deleted"] or spec.get("type") != "LoadBalancer" or given:
            return
        self._api.merge(
            f"/api/v1/namespaces/{meta['namespace']}/services/{meta['name']}/status",
            {"status": {"loadBalancer": {"ingress": [{"ip": spec["clusterIP"]}]}}},
        )


def _probe(address: str, host: str, path: Manifest, digest: str) -> bool:
    headers = {name: match["exact"] for name, match in path.get("headers", {}).items()}
    headers |= {"Host": host, "K-Network-Probe": "probe", "K-Network-Hash": "override"}
    connection = http.client.HTTPConnection(address, 80, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", path.get("path") or "/", headers=headers | {"User-Agent": "Knative-Ingress-Probe"})
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return answer.status == http.HTTPStatus.OK and answer.getheader("K-Network-Hash") == digest


def _accepted(route: Manifest) -> bool:
    parents = route.get("status", {}).get("parents", [])
    return any(
        each["type"] == "Accepted"
        and each["status"] == "True"
        and each.get("observedGeneration") == route["metadata"]["generation"]
        for parent in parents
        for each in parent["conditions"]
    )


def _route_path(route: Manifest) -> str:
    meta = route["metadata"]
    return f"/apis/gateway.networking.k8s.io/v1/namespaces/{meta['namespace']}/httproutes/{meta['name']}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, required=True)
    Carrier(Api(Lab(parser.parse_args().number))).run()
