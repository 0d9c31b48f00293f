"""From Knative's Ingress objects to Envoy's route tables and clusters, as plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["PROBE", "Body", "backends", "bootstrap", "clusters", "routes"]

Body = dict[str, Any]

PROBE = "ingress-version"
"""The host that answers which version of the routes is in force."""

_HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def backends(ingresses: Iterable[Body]) -> set[tuple[str, str, int]]:
    """Every Service that an Ingress sends to: namespace, name, port."""
    splits = [
        each
        for ingress in ingresses
        for rule in _rules(ingress)
        for path in rule["http"]["paths"]
        for each in path["splits"]
    ]
    return {(each["serviceNamespace"], each["serviceName"], int(each["servicePort"])) for each in splits}


def clusters(addresses: Mapping[tuple[str, str, int], str]) -> Body:
    """One cluster for each Service, at its address: kube-proxy chooses the pod."""
    return {"resources": [_cluster(*backend, address) for backend, address in sorted(addresses.items())]}


def routes(name: str, ingresses: Iterable[Body], known: Iterable[tuple[str, str, int]], version: str) -> Body:
    """The route table of a listener: `external` has the rules that are open to the outside, `internal` has all."""
    usable = set(known)
    hosts: dict[str, Body] = {}
    for ingress in ingresses:
        for rule in _rules(ingress):
            if name == "internal" or rule.get("visibility", "ExternalIP") == "ExternalIP":
                for host in rule["hosts"]:
                    hosts[host] = _virtual_host(host, rule["http"]["paths"], usable)
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": version}}}
    probe = {"name": PROBE, "domains": [PROBE], "routes": [answer]}
    table = {"@type": _ROUTES, "name": name, "virtual_hosts": [*hosts.values(), probe]}
    return {"resources": [table]}


def bootstrap(folder: str, admin: int, ports: Mapping[str, int]) -> Body:
    """Envoy's own configuration: listeners that stay, route tables and clusters read from files as they are replaced."""
    return {
        "node": {"id": "ingress", "cluster": "ingress"},
        "admin": {"address": _socket("127.0.0.1", admin)},
        "dynamic_resources": {"cds_config": _file(folder, "clusters")},
        "static_resources": {"listeners": [_listener(name, port, folder) for name, port in ports.items()]},
    }


def _rules(ingress: Body) -> list[Body]:
    found: list[Body] = ingress["spec"].get("rules", [])
    return found


def _virtual_host(host: str, paths: Iterable[Body], usable: set[tuple[str, str, int]]) -> Body:
    # The longest path first, and of one path those that ask for headers: Envoy takes the first that fits.
    ordered = sorted(paths, key=lambda path: (-len(path.get("path", "")), -len(path.get("headers", {}))))
    return {"name": host, "domains": [host, f"{host}:*"], "routes": [_route(path, usable) for path in ordered]}


def _route(path: Body, usable: set[tuple[str, str, int]]) -> Body:
    match: Body = {"prefix": path.get("path") or "/"}
    if wanted := path.get("headers"):
        match["headers"] = [
            {"name": name, "string_match": {"exact": value["exact"]}} for name, value in sorted(wanted.items())
        ]
    splits = [each for each in path["splits"] if _backend(each) in usable]
    if not splits:
        return {"match": match, "direct_response": {"status": 503}}
    action: Body = {
        "weighted_clusters": {"clusters": [_weighted(each) for each in splits]},
        # A stream may last for hours; how long a request may take is decided behind us.
        "timeout": "0s",
    }
    if host := path.get("rewriteHost"):
        action["host_rewrite_literal"] = host
    return {"match": match, "route": action, "request_headers_to_add": _headers(path.get("appendHeaders", {}))}


def _weighted(split: Body) -> Body:
    added = _headers(split.get("appendHeaders", {}))
    return {"name": _name(*_backend(split)), "weight": split.get("percent", 100), "request_headers_to_add": added}


def _headers(values: Mapping[str, str]) -> list[Body]:
    replace = "OVERWRITE_IF_EXISTS_OR_ADD"
    return [
        {"header": {"key": name, "value": value}, "append_action": replace} for name, value in sorted(values.items())
    ]


def _backend(split: Body) -> tuple[str, str, int]:
    return split["serviceNamespace"], split["serviceName"], int(split["servicePort"])


def _name(namespace: str, service: str, port: int) -> str:
    return f"{namespace}/{service}:{port}"


def _cluster(namespace: str, service: str, port: int, address: str) -> Body:
    name = _name(namespace, service, port)
    endpoint = {"endpoint": {"address": _socket(address, port)}}
    return {
        "@type": _CLUSTER,
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _listener(name: str, port: int, folder: str) -> Body:
    manager = {
        "@type": _HTTP,
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": _file(folder, name)},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}}],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": name, "address": _socket("0.0.0.0", port), "filter_chains": [{"filters": filters}]}  # noqa: S104


def _file(folder: str, name: str) -> Body:
    watched = {"path": f"{folder}/{name}.json", "watched_directory": {"path": folder}}
    return {"resource_api_version": "V3", "path_config_source": watched}


def _socket(address: str, port: int) -> Body:
    return {"socket_address": {"address": address, "port_value": port}}
