"""The HTTPRoute of a public function: its paths, at the public host, to Knative's local gateway.

A Knative Service cannot be a backend of a route, since it has no endpoints while it is scaled to zero. So the Host header
is rewritten to the function's cluster-local name, by which the local gateway routes to the function or activates it.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmariner.manifests.declarations import DeclarationError, Function
from llmariner.manifests.installation import GATEWAY, GATEWAY_NAMESPACE, HOST, LABELS, LOCAL_GATEWAY, NAMESPACE, Object
from llmariner.manifests.path_matches import Match

__all__ = ["FALLBACK", "http_route"]

FALLBACK = "health"
"""The function that receives unmatched requests, so that an unknown URL is answered in OpenAI's envelope."""

# The Gateway API's limit of matches per rule; each route here has one rule of the 16 permitted.
MATCHES_PER_RULE = 64


def http_route(function: Function, matches: Sequence[Match]) -> Object:
    """The HTTPRoute with all matches of a function. DeclarationError where they exceed one rule."""
    if len(matches) > MATCHES_PER_RULE:
        raise DeclarationError(f"{function.source}: {len(matches)} paths; a rule holds {MATCHES_PER_RULE}")
    gateway_service, gateway_namespace = LOCAL_GATEWAY
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
        # 0s disables the timeout. A Gateway's default would cut streams; the function has timeouts of its own.
        "timeouts": {"request": "0s"},
        "backendRefs": [{"name": gateway_service, "namespace": gateway_namespace, "port": 80}],
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
