"""Scopes, which routes require, and the built-in roles that grant them. The first twenty scopes are LLMariner's own."""

from __future__ import annotations

from llmariner.errors import InvalidRequest

__all__ = [
    "ADMIN_KEY_SCOPES",
    "ALL_SCOPES",
    "INSTALLATION_SCOPES",
    "MODEL_ADMIN",
    "ORGANIZATION_ROLES",
    "OWNER_SCOPES",
    "PROJECT_ROLES",
    "VIEWER_SCOPES",
    "validate_scopes",
    "with_implied",
]


def _read_and_write(*resources: str) -> frozenset[str]:
    return frozenset(f"{resource}.{capability}" for resource in resources for capability in ("read", "write"))


def _read_only(scopes: frozenset[str]) -> frozenset[str]:
    return frozenset(scope for scope in scopes if scope.endswith(".read"))


# The resources that members of a project work with.
_WORK = _read_and_write(
    "api.model",
    "api.fine_tuning.jobs",
    "api.workspaces.notebooks",
    "api.batch.jobs",
    "api.files",
    "api.vector-stores",
    "api.selfuser",
    "api.api_usages",
    "api.organizations.projects.api_keys",
    "api.events",
) | {"api.inference.write", "api.batch.jobs.exec"}
# What the owner of a project administers in it.
_PROJECT_ADMIN = _read_and_write(
    "api.organizations.projects", "api.organizations.projects.users", "api.limits", "api.budgets"
)
_ORGANIZATION_ADMIN = _read_and_write("api.organizations", "api.organizations.users", "api.prices")
_TENANT_SYSTEM = frozenset({"api.k8s.clusterscope.read", "api.k8s.namespaced.write"})

MODEL_ADMIN = "api.model.admin"
"""Changes models that all projects share; allows engine arguments and weight locations beyond the allowlists."""
# Owners of the default organization operate the installation and hold these besides OWNER_SCOPES.
INSTALLATION_SCOPES: frozenset[str] = frozenset({MODEL_ADMIN})
OWNER_SCOPES: frozenset[str] = (
    _WORK | _PROJECT_ADMIN | _ORGANIZATION_ADMIN | _read_and_write("api.clusters") | {"api.audit.read"}
)
ALL_SCOPES: frozenset[str] = OWNER_SCOPES | _TENANT_SYSTEM | INSTALLATION_SCOPES
VIEWER_SCOPES: frozenset[str] = _read_only(_WORK | _PROJECT_ADMIN)
# An admin key administers the organization and reads usage; it has no access to the resources of projects.
ADMIN_KEY_SCOPES: frozenset[str] = (
    _PROJECT_ADMIN
    | _ORGANIZATION_ADMIN
    | _read_and_write("api.organizations.projects.api_keys", "api.clusters")
    | {"api.audit.read", "api.api_usages.read", "api.selfuser.read"}
)

ORGANIZATION_ROLES: dict[str, frozenset[str]] = {
    "owner": OWNER_SCOPES,
    # Every member who is not an owner: reads users and projects, not the resources of projects.
    "reader": _read_only(_ORGANIZATION_ADMIN | _read_and_write("api.selfuser", "api.organizations.projects.users"))
    | {"api.organizations.projects.read"},
    "tenant_system": frozenset({"api.fine_tuning.jobs.read", "api.fine_tuning.jobs.write", "api.clusters.read"})
    | _TENANT_SYSTEM,
}
PROJECT_ROLES: dict[str, frozenset[str]] = {
    "owner": _WORK | _PROJECT_ADMIN,
    "member": _WORK | {"api.organizations.projects.read", "api.organizations.projects.users.read"},
    "viewer": VIEWER_SCOPES,
}
# LLMariner has no scope for inference: keys that were created for it use chat with `api.model.write`.
_IMPLIED = {"api.model.write": frozenset({"api.inference.write"})}


def with_implied(scopes: frozenset[str]) -> frozenset[str]:
    """The scopes, and those that they imply."""
    return scopes.union(*(_IMPLIED[scope] for scope in scopes & _IMPLIED.keys()))


def validate_scopes(scopes: list[str] | None, *, held: frozenset[str]) -> frozenset[str]:
    """The requested scopes; None: all that the creator holds. InvalidRequest if empty, or for unknown or unheld scopes."""
    if scopes is None:
        return held
    if not scopes:
        raise InvalidRequest(
            "'scopes' must not be empty: name what the key may do, send null for all that you may, or delete the key.",
            param="scopes",
        )
    for index, scope in enumerate(scopes):
        if scope not in ALL_SCOPES:
            raise InvalidRequest(
                f"Unknown scope '{scope}'. Known scopes: {', '.join(sorted(ALL_SCOPES))}.",
                param=f"scopes[{index}]",
            )
        if scope not in held:
            raise InvalidRequest(
                f"You do not hold the scope '{scope}', so a key of yours can't carry it.",
                param=f"scopes[{index}]",
            )
    return frozenset(scopes)
