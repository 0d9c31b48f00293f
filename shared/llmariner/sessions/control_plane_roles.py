"""The objects of a worker cluster by which the control plane runs work there: namespaces, and one user's rights in them.

The agent itself may list the Jobs, and nothing else.

The namespaces are made by the administrator who applies this. RBAC has no rule for "namespaces with our label": a user that
may make namespaces, and give itself rights in them, may give itself every right in every namespace.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmariner.job_settings import JobSettings
from llmariner.platform.jobs.kubernetes.authority import AUTHORITY, AUTHORITY_KEY
from llmariner.platform.kube.adapter_rules import (
    ALLOCATION_RULES,
    JOB_PROGRAM_RULES,
    JOB_READING_RULES,
    JOB_RULES,
    SERVING_RULES,
    Rule,
    rule,
)
from llmariner.sessions.roles import CONTROL_PLANE_USER

__all__ = ["WORK_NAMESPACES", "control_plane_objects"]

WORK_NAMESPACES: dict[str, tuple[str, tuple[Rule, ...]]] = {
    "llmariner-models": ("baseline", (*SERVING_RULES, *ALLOCATION_RULES)),
    JobSettings.namespace: ("restricted", (*JOB_RULES, *JOB_READING_RULES, *JOB_PROGRAM_RULES, *ALLOCATION_RULES)),
}
"""By namespace: the level of Pod Security that is enforced there, and what the adapters of the control plane need."""
_RBAC = "rbac.authorization.k8s.io"
_NAME, _REPORTS = "llmariner-control-plane", "llmariner-agent"
_LABELS = {"app.kubernetes.io/part-of": "llmariner", "app.kubernetes.io/component": "control-plane"}
Object = dict[str, Any]


def control_plane_objects(agent: tuple[str, str], *, certificates: str = "") -> list[Object]:
    """For an agent (namespace and name of its service account). Without them a cluster takes people's requests alone.

    `certificates`: PEM of the control plane's authorities, if not public; jobs send to it, too.
    """
    namespace, name = agent
    impersonation = [
        {**rule("", ["users"], "impersonate"), "resourceNames": [CONTROL_PLANE_USER]},
        rule("authentication.k8s.io", ["userextras/llmariner.ai/user"], "impersonate"),
    ]
    account = {"kind": "ServiceAccount", "namespace": namespace, "name": name}
    metadata = {"name": _NAME, "labels": _LABELS}
    objects = [_role("ClusterRole", metadata, impersonation), _binding("ClusterRole", metadata, account)]
    user = {"kind": "User", "apiGroup": _RBAC, "name": CONTROL_PLANE_USER}
    for work, (level, rules) in WORK_NAMESPACES.items():
        labels = {**_LABELS, "pod-security.kubernetes.io/enforce": level}
        inside = {**metadata, "namespace": work}
        objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": work, "labels": labels}})
        objects += [_role("Role", inside, _merged(rules)), _binding("Role", inside, user)]
    # The agent's heartbeats name the Jobs that changed.
    metadata = {"name": _REPORTS, "labels": _LABELS, "namespace": JobSettings.namespace}
    objects += [_role("Role", metadata, [rule("batch", ["jobs"], "list")]), _binding("Role", metadata, account)]
    if certificates:
        inside = {"name": AUTHORITY, "labels": _LABELS, "namespace": JobSettings.namespace}
        data = {AUTHORITY_KEY: certificates}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": inside, "data": data})
    return objects


def _merged(rules: Iterable[Rule]) -> list[Rule]:
    """The same rights, each resource once."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for each in rules:
        for group in each["apiGroups"]:
            for resource in each["resources"]:
                verbs.setdefault((group, resource), set()).update(each["verbs"])
    return [rule(group, [resource], *sorted(found)) for (group, resource), found in sorted(verbs.items())]


def _role(kind: str, metadata: Object, rules: list[Rule]) -> Object:
    return {"apiVersion": f"{_RBAC}/v1", "kind": kind, "metadata": metadata, "rules": rules}


def _binding(kind: str, metadata: Object, subject: Object) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": metadata["name"]},
        "subjects": [subject],
    }
