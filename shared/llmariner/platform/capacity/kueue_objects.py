"""The objects of quotas on a cluster: ClusterQueues of projects and of organizations, Cohorts and LocalQueues.

A project with a quota has a ClusterQueue. An organization with one has a Cohort below that of the pool, which its projects
are in: those without a quota by a ClusterQueue that they share. What projects have as nominal is a part of the
organization's. Where it is more than that, all of the organization's is in the Cohort, and the projects borrow there what
is theirs, so that the organization's quota holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmariner.errors import Conflict, InvalidRequest, Unavailable
from llmariner.platform.capacity import OrganizationLimits, QuotaLimit
from llmariner.platform.kube.resources import CLUSTER_QUEUES, COHORTS, LOCAL_QUEUES
from llmariner.platform.serving.kserve.objects import MANAGED_BY_LABELS
from llmariner.platform.serving.kserve.queues import PROJECT_ANNOTATION, QUOTA_ANNOTATION, queue_name

__all__ = [
    "ORGANIZATION_ANNOTATION",
    "REVISION_ANNOTATION",
    "check_pool",
    "cluster_queue_name",
    "cohort_of",
    "emptied",
    "local_queue",
    "quota_objects",
    "resource_of",
]

ORGANIZATION_ANNOTATION = "llmariner.ai/organization"
"""The annotation that holds an organization's id."""

REVISION_ANNOTATION = "llmariner.ai/revision"
"""The annotation with the revision of the quotas that an object was written from."""

_COPIED = ("namespaceSelector", "queueingStrategy", "preemption", "flavorFungibility")
_NO_LIMIT = QuotaLimit(0, None)

Body = dict[str, Any]


def cluster_queue_name(pool: str, id_: str) -> str:
    """The name of the ClusterQueue of a project or an organization, and of its Cohort; `pool`: the pool's LocalQueue."""
    return f"llmariner-{queue_name(pool, id_)}"


def check_pool(queue: str, pool: Body | None, resources: Iterable[str]) -> Body:
    """The pool's ClusterQueue. Raises Unavailable, Conflict, and InvalidRequest for a resource that it does not have."""
    if pool is None:
        raise Unavailable(f"The pool's LocalQueue '{queue}' or its ClusterQueue is missing: ask an operator.")
    if not cohort_of(pool):
        raise Conflict(
            f"The ClusterQueue '{pool['metadata']['name']}' is in no cohort, so no project can have a part of it: "
            "an operator sets its 'spec.cohortName'.",
            code="no_cohort",
        )
    covered = {resource_of(name) for group in _groups(pool) for name in group["coveredResources"]}
    for resource in resources:
        if resource not in covered:
            raise InvalidRequest(f"The pool has no '{resource}': leave it out.", param=resource, code="not_in_pool")
    return pool


def quota_objects(queue: str, quotas: OrganizationLimits, pool: Body) -> Iterator[Body]:
    """The Cohort and the ClusterQueues of an organization's quotas, a Cohort before its members."""
    cohort = cohort_of(pool)
    if quotas.limits:
        name = cluster_queue_name(queue, quotas.organization_id)
        groups = [_resource_group(each, _cohort_limits(quotas)) for each in _groups(pool)]
        owner = {ORGANIZATION_ANNOTATION: quotas.organization_id}
        yield _object(COHORTS, name, owner, quotas.revision, {"parentName": cohort, "resourceGroups": groups})
        cohort = name
        yield _cluster_queue(name, owner, quotas.revision, pool, cohort, {})
    for project_id, limits in sorted(quotas.projects.items()):
        name, owner = cluster_queue_name(queue, project_id), {PROJECT_ANNOTATION: project_id}
        yield _cluster_queue(name, owner, quotas.revision, pool, cohort, _project_limits(quotas, limits))


def emptied(queue: Body, pool: Body, cohort: str, revision: int) -> Body:
    """A ClusterQueue without the quota that it had: what it admitted runs on, and counts as borrowed."""
    metadata = queue["metadata"]
    names = (PROJECT_ANNOTATION, ORGANIZATION_ANNOTATION)
    owner = {name: metadata["annotations"][name] for name in names if name in metadata.get("annotations", {})}
    return _cluster_queue(metadata["name"], owner, revision, pool, cohort, {})


def local_queue(namespace: str, name: str, owner: Mapping[str, str], target: str, *, has_quota: bool) -> Body:
    """The LocalQueue of a project or an organization, which `owner` names as an annotation."""
    kind = {"apiVersion": LOCAL_QUEUES.api_version, "kind": LOCAL_QUEUES.kind}
    annotations = {**owner, **({QUOTA_ANNOTATION: "true"} if has_quota else {})}
    metadata = {"name": name, "namespace": namespace, "labels": MANAGED_BY_LABELS, "annotations": annotations}
    return {**kind, "metadata": metadata, "spec": {"clusterQueue": target}}


def resource_of(name: str) -> str:
    """`gpu` for a device such as `nvidia.com/gpu`."""
    return "gpu" if "/" in name else name


def cohort_of(queue: Body) -> str:
    """The name of the cohort of a ClusterQueue; "" for none."""
    return str(queue["spec"].get("cohortName") or "")


def _exceeds(quotas: OrganizationLimits, resource: str) -> bool:
    """Whether the projects have more as nominal than their organization."""
    own = quotas.limits.get(resource)
    return own is not None and quotas.nominal_of_projects(resource) > own.nominal


def _cohort_limits(quotas: OrganizationLimits) -> dict[str, QuotaLimit]:
    limits = {}
    for resource, own in quotas.limits.items():
        given = 0 if _exceeds(quotas, resource) else quotas.nominal_of_projects(resource)
        limits[resource] = QuotaLimit(own.nominal - given, own.borrowing)
    return limits


def _project_limits(quotas: OrganizationLimits, limits: Mapping[str, QuotaLimit]) -> dict[str, QuotaLimit]:
    return {
        resource: QuotaLimit(0, limit.most) if _exceeds(quotas, resource) else limit
        for resource, limit in limits.items()
    }


def _cluster_queue(
    name: str, owner: Mapping[str, str], revision: int, pool: Body, cohort: str, limits: Mapping[str, QuotaLimit]
) -> Body:
    """A resource without a limit has nothing of its own and borrows what is free."""
    spec = {name: pool["spec"][name] for name in _COPIED if name in pool["spec"]}
    spec |= {"cohortName": cohort, "resourceGroups": [_resource_group(each, limits) for each in _groups(pool)]}
    return _object(CLUSTER_QUEUES, name, owner, revision, spec)


def _object(resource: Any, name: str, owner: Mapping[str, str], revision: int, spec: Body) -> Body:
    annotations = {**owner, REVISION_ANNOTATION: str(revision)}
    metadata = {"name": name, "labels": MANAGED_BY_LABELS, "annotations": annotations}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "spec": spec}


def _groups(pool: Body) -> list[Body]:
    return list(pool["spec"].get("resourceGroups", ()))


def _resource_group(group: Body, limits: Mapping[str, QuotaLimit]) -> Body:
    """The pool's resources with limits; the first flavor has them, of the others nothing may be borrowed."""
    flavors = []
    for number, flavor in enumerate(group["flavors"]):
        resources = []
        for name in group["coveredResources"]:
            limit = limits.get(resource_of(name))
            if limit is not None and number > 0:
                limit = QuotaLimit(0, 0)
            resources.append(_quota(name, limit or _NO_LIMIT))
        flavors.append({"name": flavor["name"], "resources": resources})
    return {"coveredResources": group["coveredResources"], "flavors": flavors}


def _quota(name: str, limit: QuotaLimit) -> Body:
    borrowing = {} if limit.borrowing is None else {"borrowingLimit": _quantity(name, limit.borrowing)}
    return {"name": name, "nominalQuota": _quantity(name, limit.nominal), **borrowing}


def _quantity(name: str, amount: int) -> str:
    """The canonical form, which the API server returns: an apply of the same again changes nothing."""
    if name != "cpu":
        return str(amount)
    return f"{amount}m" if amount % 1000 else str(amount // 1000)
