"""The HTTPRoute of a public function: its paths, at the public host, to Knative's local gateway.

A Knative Service cannot be a backend of a route, since nothing listens behind it while it sleeps. So the Host header
is rewritten to the function's own name inside the cluster, and the local gateway finds, or wakes, the function by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmariner.manifests.declarations import DeclarationError, Function
from llmariner.manifests.installation import GATEWAY, GATEWAY_NAMESPACE, HOST, LABELS, LOCAL_GATEWAY, NAMESPACE, Object
from llmariner.manifests.path_matches import Match

__all__ = ["FALLBACK", "http_route"]

FALLBACK = "health"
"""The function that is given what no other asks for, so that an unknown URL is answered in our own envelope."""

# One route per function has one rule, far from the 16 that a route may have; a rule may have so many matches.
MATCHES_PER_RULE = 64


def http_route(function: Function, matches: Sequence[Match]) -> Object:
    """Everything that the function is given of what arrives at the Gateway."""
    if len(matches) > MATCHES_PER_RULE:
        raise DeclarationError(f"{function.source}: {len(matches)} paths; a rule holds {MATCHES_PER_RULE}")
    service, there = LOCAL_GATEWAY
    rule = {
        "matches": [_match(each) for each in matches],
        "filters": [
            {
                "type": "URLRewrite",
                "urlRewrite": {"hostname": f"{function.name}.{NAMESPACE}.svc.cluster.local"},
            },
            {
                "type": "RequestHeaderModifier",
                "requestHeaderModifier": {"set": [{"name": "X-Forwarded-Host", "value": HOST}]},
            },
        ],
        # 0s is none. Unsaid, a Gateway's own limit would cut streams; the function's timeouts are the only ones.
        "timeouts": {"request": "0s"},
        "backendRefs": [{"name": service, "namespace": there, "port": 80}],
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": function.name,
            "namespace": NAMESPACE,
            "labels": {**LABELS, "app.kubernetes.io/name": function.name},
        },
        "spec": {
            "parentRefs": [{"name": GATEWAY, "namespace": GATEWAY_NAMESPACE}],
            "hostnames": [HOST],
            "rules": [rule],
        },
    }


def _match(match: Match) -> Object:
    method = {"method": match.method} if match.method else {}
    return {"path": {"type": match.type, "value": match.value}, **method}
