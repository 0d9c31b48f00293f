"""What the roles of a project give in its namespaces on a cluster, and the names that stand for them there."""

from __future__ import annotations

__all__ = ["CONNECTABLE", "CONTROL_PLANE_USER", "MEMBER", "READABLE", "SESSION_USER", "VIEWER", "group_name"]

SESSION_USER = "llmariner:session"
"""The one user as whom people come. It has no rights: the groups have them."""
CONTROL_PLANE_USER = "llmariner:control-plane"
"""Who the control plane itself is there, where the cluster's administrator lets it run work (`control_plane_roles`)."""
VIEWER, MEMBER = "viewer", "member"
READABLE: dict[str, tuple[str, ...]] = {
    "": ("pods", "pods/log", "events", "services", "persistentvolumeclaims"),
    "apps": ("deployments", "replicasets", "statefulsets"),
    "batch": ("jobs",),
    "events.k8s.io": ("events",),
    "jobset.x-k8s.io": ("jobsets",),
    "kueue.x-k8s.io": ("localqueues", "workloads"),
    "serving.kserve.io": ("inferenceservices",),
}
"""Resources by API group that everybody in a project may read. No Secrets and no ConfigMaps."""
CONNECTABLE = ("pods/exec", "pods/attach", "pods/portforward")


def group_name(project_id: str, role: str) -> str:
    """The group of the people of a project who have a role there."""
    return f"llmariner:project:{project_id}:{role}"
