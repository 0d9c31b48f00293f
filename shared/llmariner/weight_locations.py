"""The installation's allow lists of locations that projects may load weights from, or make files of.

The platform's own credentials read them, so a location that a project chooses freely could belong to another tenant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["location_error", "validate_locations"]

_PROJECT_PLACEHOLDER = "${project_id}"
# Narrower than RFC 3986: no percent-encoding, no userinfo, no query, no empty or dot segments, so that two
# locations are the same only if their texts are.
_LOCATION = re.compile(r"[a-z][a-z0-9]*://(?:/)?[A-Za-z0-9._~:+=-]+(?:/[A-Za-z0-9._~:+=-]+)*/?", re.ASCII)
# A container image is executed, not read; plain HTTP can reach any service inside the cluster.
_FORBIDDEN_SCHEMES = frozenset({"oci", "oci+native", "oci+fetch", "http"})

# Repositories of the public: a prefix without a place opens them all.
_PUBLIC_SCHEMES = frozenset({"hf", "ollama"})


def validate_locations(allowed: Sequence[str]) -> tuple[str, ...]:
    """The entries as a tuple. Raises ValueError for a scheme that is never open to projects and for an invalid location."""
    for entry in allowed:
        scheme, _, place = entry.partition("://")
        if scheme in _FORBIDDEN_SCHEMES:
            raise ValueError(f"{entry!r}: {scheme}:// is never open to projects; an administrator may use it.")
        plain = entry.replace(_PROJECT_PLACEHOLDER, "project")
        if not re.fullmatch(r"[a-z][a-z0-9]*://", plain) and not _is_location(plain):
            raise ValueError(
                f"{entry!r} must be a prefix such as hf://, s3://bucket/models/ or s3://bucket/{_PROJECT_PLACEHOLDER}/."
            )
        if not place and scheme not in _PUBLIC_SCHEMES:
            raise ValueError(f"{entry!r} would open every {scheme}:// location; name the bucket, claim or host.")
    return tuple(allowed)


def location_error(
    uri: str, allowed: Sequence[str], project_id: str | None, *, use: str = "load weights from"
) -> str | None:
    """Why a project may not use a location; None if it may. An entry's `${project_id}` is the project's id."""
    if not _is_location(uri):
        return f"'{uri[:200]}' is no plain location: scheme://place/path, without '..', '%', '@', '?' or '#'"
    for entry in allowed:
        if _PROJECT_PLACEHOLDER in entry and project_id is None:
            continue
        prefix = entry.replace(_PROJECT_PLACEHOLDER, project_id or "")
        if uri.startswith(prefix) and (prefix.endswith("/") or uri[len(prefix) :][:1] in ("", "/")):
            return None
    places = (
        ", ".join(entry.replace(_PROJECT_PLACEHOLDER, project_id or _PROJECT_PLACEHOLDER) for entry in allowed)
        or "nowhere"
    )
    return f"'{uri[:200]}' is not where a project may {use} ({places})"


def _is_location(uri: str) -> bool:
    segments = uri.partition("://")[2].split("/")
    return bool(_LOCATION.fullmatch(uri)) and not any(segment in (".", "..") for segment in segments)
