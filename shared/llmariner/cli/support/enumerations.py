"""Values of the API's enumerations without their prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["enum_value", "role_name"]

_PREFIXES = (
    "ACTIVATION_STATUS_",
    "MODEL_FORMAT_",
    "MODEL_LOADING_STATUS_",
    "ORGANIZATION_ROLE_",
    "PROJECT_ROLE_",
    "SOURCE_REPOSITORY_",
)


def enum_value(name: str) -> str:
    """`SOURCE_REPOSITORY_HUGGING_FACE` as `HUGGING_FACE`; other values unchanged."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def role_name(member: Mapping[str, Any]) -> str:
    """A member's role as the command line writes it.

    It is `role_id`, since `role` of a custom role is only the closest predefined role.
    """
    role = str(member.get("role_id") or member.get("role") or "")
    return role if role.startswith("role_") else enum_value(role).lower().replace("_", "-")
