"""The test cluster's ingress says to Envoy what Knative's Ingress objects say."""

from __future__ import annotations

import importlib
from typing import Any

_routes = importlib.import_module(".ingress.routes", __package__)
A, B = ("ns", "rev-a", 80), ("ns", "rev-b", 80)


def ingress(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"rules": list(rules)}}


def rule(
    *splits: tuple[tuple[str, str, int], int], host: str = "f.ns.svc.cluster.local", **path: Any
) -> dict[str, Any]:
    visibility = path.pop("visibility", "ClusterLocal")
    said = [
        {
            "serviceNamespace": namespace,
            "serviceName": name,
            "servicePort": port,
            "percent": percent,
            "appendHeaders": {"Knative-Serving-Revision": name},
        }
        for (namespace, name, port), percent in splits
    ]
    return {"hosts": [host], "visibility": visibility, "http": {"paths": [{"splits": said, **path}]}}


def hosts(table: dict[str, Any]) -> dict[str, Any]:
    (resource,) = table["resources"]
    return {each["name"]: each["routes"] for each in resource["virtual_hosts"]}


def test_a_canary_is_split_by_weight_and_each_part_bears_its_headers() -> None:
    found = _routes.routes("internal", [ingress(rule((A, 80), (B, 20)))], {A, B}, "7")
    (route,) = hosts(found)["f.ns.svc.cluster.local"]
    parts = route["route"]["weighted_clusters"]["clusters"]
    assert [(each["name"], each["weight"]) for each in parts] == [("ns/rev-a:80", 80), ("ns/rev-b:80", 20)]
    assert parts[1]["request_headers_to_add"][0]["header"] == {"key": "Knative-Serving-Revision", "value": "rev-b"}
    assert route["route"]["timeout"] == "0s"


def test_what_is_cluster_local_is_not_open_to_the_outside() -> None:
    objects = [ingress(rule((A, 100)), rule((B, 100), host="open.example", visibility="ExternalIP"))]
    outside = hosts(_routes.routes("external", objects, {A, B}, "7"))
    assert set(outside) == {"open.example", _routes.PROBE}
    assert set(hosts(_routes.routes("internal", objects, {A, B}, "7"))) >= {"open.example", "f.ns.svc.cluster.local"}


def test_a_service_without_an_address_answers_503_and_harms_no_other() -> None:
    found = hosts(_routes.routes("internal", [ingress(rule((A, 100)))], set(), "7"))
    assert found["f.ns.svc.cluster.local"] == [{"match": {"prefix": "/"}, "direct_response": {"status": 503}}]


def test_the_more_particular_path_comes_first() -> None:
    wide, narrow = rule((A, 100)), rule((B, 100), path="/v1")
    wide["http"]["paths"] += narrow["http"]["paths"]
    prefixes = [
        each["match"]["prefix"]
        for each in hosts(_routes.routes("internal", [ingress(wide)], {A, B}, "7"))["f.ns.svc.cluster.local"]
    ]
    assert prefixes == ["/v1", "/"]


def test_every_backend_is_found_and_has_a_cluster() -> None:
    assert _routes.backends([ingress(rule((A, 80), (B, 20)))]) == {A, B}
    (cluster,) = _routes.clusters({A: "10.96.0.5"})["resources"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    assert address == {"socket_address": {"address": "10.96.0.5", "port_value": 80}}
