"""A cluster as it is stored, and its ids and names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.identifiers import new_id
from llmariner.tenancy.validators import validate_selectable_title

__all__ = ["LOCAL_CLUSTER_ID", "LOCAL_CLUSTER_NAME", "Cluster", "cluster_from_row", "new_cluster_id", "validate_name"]

LOCAL_CLUSTER_ID = "cluster-local"
"""The cluster, or the machine, on which the control plane runs."""
LOCAL_CLUSTER_NAME = "default"
_MAX_NAME_LENGTH = 64
_ID = re.compile(r"cluster-(local|[0-9a-z]{22})")


@dataclass(frozen=True)
class Cluster:
    """A registered cluster. Times are Unix seconds; `organization_id` None: the control plane's own, shared by all.

    `key_prefix`: the masked registration key, None where no key is valid. `previous_key_expires_at`: until when the key
    before it is valid, too; None: it is not. `delete_requested_at`: it is deleted once no work runs there.
    """

    id: str
    organization_id: str | None
    name: str
    created_at: int
    key_prefix: str | None
    key_created_at: int | None
    previous_key_expires_at: float | None
    drain_requested_at: int | None
    delete_requested_at: int | None

    @property
    def is_local(self) -> bool:
        """Whether the control plane runs there."""
        return self.id == LOCAL_CLUSTER_ID


def cluster_from_row(row: Row[Any]) -> Cluster:
    """The cluster of a row of `clusters`."""
    return Cluster(
        id=row.id,
        organization_id=row.organization_id,
        name=row.name,
        created_at=row.created_at,
        key_prefix=row.key_prefix,
        key_created_at=row.key_created_at,
        previous_key_expires_at=row.previous_expires_at,
        drain_requested_at=row.drain_requested_at,
        delete_requested_at=row.delete_requested_at,
    )


def new_cluster_id() -> str:
    """`cluster-` and 22 characters that sort by time of creation; a valid name of a Kubernetes object."""
    return new_id("cluster").replace("_", "-")


def validate_name(value: str) -> str:
    """The name of a cluster. InvalidRequest if it is no title, looks like an id, or is that of the local cluster."""
    name = validate_selectable_title(value, "name", max_length=_MAX_NAME_LENGTH)
    if _ID.fullmatch(name.lower()):
        raise InvalidRequest("'name' must not look like an id: choose another one.", param="name")
    if name == LOCAL_CLUSTER_NAME:
        raise InvalidRequest(
            f"'{LOCAL_CLUSTER_NAME}' is the name of the cluster that the control plane runs on: choose another one.",
            param="name",
        )
    return name
