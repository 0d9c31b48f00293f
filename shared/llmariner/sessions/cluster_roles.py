"""The objects of a cluster by which people's requests have rights there, and its agent the right to pass them on.

RBAC matches names exactly, so an agent can't be allowed to impersonate "names with our prefix". It may impersonate one user
without rights, and the groups of the projects that have namespaces on the cluster, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmariner.sessions.roles import CONNECTABLE, MEMBER, READABLE, SESSION_USER, VIEWER, group_name

__all__ = ["session_objects"]

_RBAC = "rbac.authorization.k8s.io"
_NAME = "llmariner-sessions"
_LABELS = {"app.kubernetes.io/managed-by": "llmariner", "app.kubernetes.io/component": "sessions"}
Object = dict[str, Any]


def session_objects(agent: tuple[str, str], projects: Mapping[str, frozenset[str]]) -> list[Object]:
    """The objects for an agent (namespace and name of its service account) and the namespaces of each project id.

    Apply them as an administrator of the cluster: the agent itself has no right to change them.
    """
    groups = sorted(group_name(project, role) for project in projects for role in (VIEWER, MEMBER))
    objects = [_cluster_role(groups), _cluster_role_binding(agent)]
    for project, namespaces in sorted(projects.items()):
        for namespace in sorted(namespaces):
            objects += _namespace_roles(project, namespace)
    return objects


def _cluster_role(groups: list[str]) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _NAME, "labels": _LABELS},
        "rules": [
            {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"], "resourceNames": [SESSION_USER]},
            # A rule with an empty list of names would allow every name.
            *(
                [{"apiGroups": [""], "resources": ["groups"], "verbs": ["impersonate"], "resourceNames": groups}]
                if groups
                else []
            ),
            {
                "apiGroups": ["authentication.k8s.io"],
                "resources": ["userextras/llmariner.ai/user"],
                "verbs": ["impersonate"],
            },
        ],
    }


def _cluster_role_binding(agent: tuple[str, str]) -> Object:
    namespace, name = agent
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _NAME, "labels": _LABELS},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": _NAME},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": name}],
    }


def _namespace_roles(project: str, namespace: str) -> list[Object]:
    read = [
        {"apiGroups": [group], "resources": list(resources), "verbs": ["get", "list", "watch"]}
        for group, resources in sorted(READABLE.items())
    ]
    connect = [{"apiGroups": [""], "resources": list(CONNECTABLE), "verbs": ["get", "create"]}]
    objects: list[Object] = []
    for role, rules in ((VIEWER, read), (MEMBER, read + connect)):
        metadata = {"name": f"llmariner-{role}", "namespace": namespace, "labels": _LABELS}
        objects.append({"apiVersion": f"{_RBAC}/v1", "kind": "Role", "metadata": metadata, "rules": rules})
        objects.append(
            {
                "apiVersion": f"{_RBAC}/v1",
                "kind": "RoleBinding",
                # Two projects may share a namespace.
                "metadata": {**metadata, "name": f"llmariner-{role}-{project.replace('_', '-').lower()}"},
                "roleRef": {"apiGroup": _RBAC, "kind": "Role", "name": f"llmariner-{role}"},
                "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": group_name(project, role)}],
            }
        )
    return objects
