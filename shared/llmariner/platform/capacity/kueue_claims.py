"""What Kueue's Workloads hold and wait for, and what ClusterQueues and Cohorts have, as amounts of the capacity port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llmariner.platform.capacity import RESOURCES, Claim, Kind
from llmariner.platform.capacity.kueue_objects import resource_of
from llmariner.platform.kube.quantities import parse_quantity

__all__ = ["claim_of", "has_condition", "nominal_amounts"]

_KIND_OF_OWNER = {"Job": Kind.JOBS, "JobSet": Kind.JOBS, "TrainJob": Kind.JOBS}
_NOTEBOOK = "nb-"
"""How the name of a notebook's Job begins."""

Body = dict[str, Any]


def claim_of(workload: Body, project_id: str | None) -> Claim:
    """What a Workload holds, or waits for."""
    holds = has_condition(workload, "QuotaReserved")
    owner = (workload["metadata"].get("ownerReferences") or [{}])[0]
    kind = _KIND_OF_OWNER.get(str(owner.get("kind", "")), Kind.MODELS)
    if kind is Kind.JOBS and str(owner.get("name", "")).startswith(_NOTEBOOK):
        kind = Kind.NOTEBOOKS
    amounts = dict.fromkeys(RESOURCES, 0)
    for name, quantity, count in _admitted(workload) if holds else _requested(workload):
        if (resource := resource_of(name)) in amounts:
            amounts[resource] += count * _amount(name, quantity)
    return Claim(project_id, kind, amounts, waits=not holds)


def _admitted(workload: Body) -> Iterator[tuple[str, object, int]]:
    for assignment in workload["status"].get("admission", {}).get("podSetAssignments", ()):
        for name, quantity in assignment.get("resourceUsage", {}).items():
            yield name, quantity, 1


def _requested(workload: Body) -> Iterator[tuple[str, object, int]]:
    for pods in workload["spec"].get("podSets", ()):
        for container in pods["template"]["spec"].get("containers", ()):
            for name, quantity in container.get("resources", {}).get("requests", {}).items():
                yield name, quantity, pods.get("count", 1)


def _amount(name: str, quantity: object) -> int:
    return round(parse_quantity(quantity) * (1000 if name == "cpu" else 1))


def has_condition(body: Body, kind: str) -> bool:
    """Whether an object has a condition that is true."""
    conditions = body.get("status", {}).get("conditions", ())
    return any((each["type"], each["status"]) == (kind, "True") for each in conditions)


def nominal_amounts(members: Iterable[Body]) -> dict[str, int]:
    """The sum of the nominal quotas of ClusterQueues and Cohorts."""
    amounts = dict.fromkeys(RESOURCES, 0)
    for member in members:
        for group in member.get("spec", {}).get("resourceGroups", ()):
            for quota in (each for flavor in group["flavors"] for each in flavor["resources"]):
                if (resource := resource_of(quota["name"])) in amounts:
                    amounts[resource] += _amount(quota["name"], quota["nominalQuota"])
    return amounts
