"""A quota: what a project, or all projects of an organization together, may hold of each resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.platform.capacity import RESOURCES, QuotaLimit

__all__ = ["OPERATOR", "ORGANIZATION", "Quota", "Subject", "check_limits", "limit_columns"]

OPERATOR, ORGANIZATION = "operator", "organization"
"""Who set a quota: an owner of the default organization, who runs the installation, or one of the organization."""

_MAX_AMOUNTS = {"gpu": 1_000_000, "cpu": 1_000_000_000, "memory": 2**60}


@dataclass(frozen=True)
class Subject:
    """Whose quota it is: a project, or (`project_id` None) the organization."""

    organization_id: str
    project_id: str | None = None

    @property
    def id(self) -> str:
        """The id of the project or organization."""
        return self.project_id or self.organization_id

    @property
    def kind(self) -> str:
        """`project` or `organization`."""
        return "organization" if self.project_id is None else "project"


@dataclass(frozen=True)
class Quota:
    """A stored quota. `limits`: by resource; one without a limit is absent. Times are Unix seconds.

    `by_operator`: who runs the installation has set it, so that owners of the organization can't change it.
    """

    subject: Subject
    limits: Mapping[str, QuotaLimit]
    created_at: int
    updated_at: int
    by_operator: bool = True

    @classmethod
    def from_row(cls, row: Row[Any]) -> Quota:
        """The quota of a row of `quotas`."""
        columns = row._mapping
        limits = {
            resource: QuotaLimit(columns[f"{resource}_nominal"], columns[f"{resource}_borrowing"])
            for resource in RESOURCES
            if columns[f"{resource}_nominal"] is not None
        }
        # Rows of a release that did not note it may be the operator's.
        by_operator = row.set_by != ORGANIZATION
        return cls(Subject(row.organization_id, row.project_id), limits, row.created_at, row.updated_at, by_operator)


def check_limits(limits: Mapping[str, QuotaLimit | None]) -> None:
    """Raises InvalidRequest for amounts out of range, and where there are none."""
    if not limits:
        raise InvalidRequest(f"Name what the quota is about: {', '.join(RESOURCES)}.", param=RESOURCES[0])
    for resource, limit in limits.items():
        most = _MAX_AMOUNTS[resource]
        for name, amount in () if limit is None else (("nominal", limit.nominal), ("borrowing_limit", limit.borrowing)):
            if amount is not None and not 0 <= amount <= most:
                shown = most // 1000 if resource == "cpu" else most
                raise InvalidRequest(
                    f"'{resource}.{name}' must be from 0 to {shown}.", param=f"{resource}.{name}", code="out_of_range"
                )


def limit_columns(limits: Mapping[str, QuotaLimit | None]) -> dict[str, int | None]:
    """The columns of limits in a row of `quotas`."""
    columns: dict[str, int | None] = {}
    for resource, limit in limits.items():
        columns[f"{resource}_nominal"] = None if limit is None else limit.nominal
        columns[f"{resource}_borrowing"] = None if limit is None else limit.borrowing
    return columns
