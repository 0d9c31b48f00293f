"""What a caller may do in a cluster through the platform, and who the caller is there.

The platform decides first (this module), the cluster's API server decides again by the roles of the groups in the request
(`cluster_roles`). Neither trusts the agent in between.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import select

from llmariner.errors import NotFound, PermissionDenied
from llmariner.platform.database import ReadSession
from llmariner.sessions.kubernetes_requests import KubernetesRequest
from llmariner.sessions.roles import CONNECTABLE, MEMBER, READABLE, SESSION_USER, VIEWER, group_name
from llmariner.tenancy.principal import Caller
from llmariner.tenancy.tables import projects

__all__ = ["CONNECT_SCOPE", "READ_SCOPE", "Identity", "authorize", "namespaces_of"]

READ_SCOPE = "api.fine_tuning.jobs.read"
CONNECT_SCOPE = "api.batch.jobs.exec"
# No assignment opens the namespaces of the cluster's own parts.
_RESERVED_PREFIXES = (
    *("kube-", "knative-", "kserve", "kueue-", "cert-manager", "nvidia", "gpu-operator"),
    *("istio-", "kourier-", "contour-", "envoy-gateway-", "openshift-", "calico-", "tigera-", "cilium-"),
)
_RESERVED = frozenset(
    {
        *("default", "projectcontour", "ingress-nginx"),
        *("llmariner", "llmariner-agent", "llmariner-gateway", "llmariner-jobs", "llmariner-models"),
    }
)


@dataclass(frozen=True)
class Identity:
    """Who a caller is in a cluster."""

    user: str
    groups: tuple[str, ...]
    person: str

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The fields by which a request says it (Kubernetes' impersonation)."""
        fields = [(b"impersonate-user", self.user.encode())]
        fields += [(b"impersonate-group", group.encode()) for group in self.groups]
        # Gives no rights; the cluster's own audit log shows it.
        return [*fields, (b"impersonate-extra-llmariner.ai%2fuser", self.person.encode())]


def namespaces_of(session: ReadSession, project_id: str, cluster_id: str) -> frozenset[str]:
    """The namespaces of a project on a cluster: those assigned to the project there and on all clusters, or its own."""
    row = session.first(
        select(projects.c.kubernetes_namespace, projects.c.assignments).where(projects.c.id == project_id)
    )
    if row is None:
        return frozenset()
    assigned = json.loads(row.assignments or "[]")
    found = {each["namespace"] for each in assigned if each["cluster_id"] in ("", cluster_id)}
    if row.kubernetes_namespace:
        found.add(row.kubernetes_namespace)
    return frozenset(each for each in found if not each.startswith(_RESERVED_PREFIXES) and each not in _RESERVED)


def authorize(caller: Caller, request: KubernetesRequest, namespaces: frozenset[str]) -> Identity:
    """Who the caller is there. `namespaces`: those of the caller's project on the cluster.

    NotFound for other namespaces, PermissionDenied for what the caller's roles do not give.
    """
    project_id = caller.key_owner.project_id
    if not namespaces:
        # kubectl takes 404 for "this server has no such resource" when it asks which there are.
        denied = PermissionDenied if request.verb == "discover" else NotFound
        raise denied(
            "Your project has no namespace on a cluster with that id. Its owner assigns one with `llma admin projects`; "
            "GET /v1/clusters lists the clusters of your organization.",
            code="namespace_not_found",
        )
    if request.resource and request.namespace not in namespaces:
        raise NotFound(
            f"Your project has no namespace '{request.namespace}' on this cluster. "
            f"It has: {', '.join(sorted(namespaces))}.",
            code="namespace_not_found",
        )
    member = CONNECT_SCOPE in caller.scopes
    if request.verb == "connect":
        allowed = member and request.group == "" and f"{request.resource}/{request.subresource}" in CONNECTABLE
    elif request.resource:
        resource = f"{request.resource}/{request.subresource}" if request.subresource else request.resource
        allowed = request.verb in ("get", "list", "watch") and resource in READABLE.get(request.group, ())
    else:
        allowed = request.verb == "discover"
    if not allowed:
        raise PermissionDenied(
            f"You may not {request} through the platform. A project's viewers read its pods, logs, jobs and events; its "
            f"members also exec, attach and forward ports."
        )
    groups = (group_name(project_id, MEMBER if member else VIEWER),)
    return Identity(SESSION_USER, groups, caller.user_id)
