"""The scopes a key may carry. The first twenty are LLMariner's own; a route declares the one that it needs."""

from __future__ import annotations

from llmariner.errors import InvalidRequest

__all__ = ["ALL_SCOPES", "OWNER_SCOPES", "VIEWER_SCOPES", "checked"]

_PAIRS = (
    "api.model",
    "api.fine_tuning.jobs",
    "api.workspaces.notebooks",
    "api.batch.jobs",
    "api.files",
    "api.vector-stores",
    "api.clusters",
    "api.selfuser",
    "api.api_usages",
    "api.organizations.projects.api_keys",
    "api.events",
)

ALL_SCOPES: frozenset[str] = frozenset(
    [f"{resource}.{capability}" for resource in _PAIRS for capability in ("read", "write")]
    + ["api.k8s.clusterscope.read", "api.k8s.namespaced.write"]
)
OWNER_SCOPES: frozenset[str] = ALL_SCOPES - {"api.k8s.clusterscope.read", "api.k8s.namespaced.write"}
VIEWER_SCOPES: frozenset[str] = frozenset(scope for scope in OWNER_SCOPES if scope.endswith(".read"))


def checked(scopes: list[str] | None, *, held: frozenset[str]) -> frozenset[str]:
    """The scopes asked for, or all that the maker holds. InvalidRequest for one unknown or not held."""
    if not scopes:
        return held
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
