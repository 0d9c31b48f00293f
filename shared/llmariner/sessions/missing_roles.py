"""The API server's answer where nobody applied the roles of a project, as an error that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable

from llmariner.errors import PermissionDenied

__all__ = ["missing_roles"]

_IMPERSONATED = frozenset({"users", "groups", "userextras"})


def missing_roles(body: bytes, project_id: str, namespaces: Iterable[str]) -> PermissionDenied | None:
    """The error for a response with status 403 whose cause is that the agent may not pass on this project's requests.

    None for any other one: that is the API server's word on what the person may do.
    """
    try:
        status = json.loads(body)
        refused = "cannot impersonate" in status["message"] and status["details"]["kind"] in _IMPERSONATED
    except (ValueError, LookupError, TypeError):
        return None
    if not refused:
        return None
    assigned = " ".join(f"{project_id}={each}" for each in sorted(namespaces))
    return PermissionDenied(
        "The cluster has no roles for your project yet. An administrator of the cluster applies them: "
        f"`llma admin clusters permissions {assigned} | kubectl apply -f -`, with all projects of the cluster at once.",
        code="cluster_roles_missing",
    )
