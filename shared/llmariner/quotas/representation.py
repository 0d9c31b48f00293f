"""The JSON of quotas, with what is used and waited for. GPUs and bytes are whole numbers, cores have fractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.platform.capacity import RESOURCES, Amounts, Claim, Kind, QuotaLimit, total
from llmariner.quotas.quota import OPERATOR, ORGANIZATION, Quota, Subject

__all__ = ["pool_object", "quota_object"]


def quota_object(subject: Subject, name: str, quota: Quota | None, claims: Sequence[Claim]) -> dict[str, Any]:
    """The object of a project or organization. `claims`: its own. Without a quota on a resource, `nominal` is null."""
    limits = {} if quota is None else quota.limits
    held, waiting = _held_and_waiting(claims)
    return {
        "object": "organization.quota",
        "id": subject.id,
        "subject": subject.kind,
        "name": name,
        "organization_id": subject.organization_id,
        **{each: _resource(each, limits.get(each), held[each], waiting[each]) for each in RESOURCES},
        "kinds": _kinds(claims),
        "set_by": _set_by(quota),
        "created_at": None if quota is None else quota.created_at,
        "updated_at": None if quota is None else quota.updated_at,
    }


def pool_object(pool: Amounts, claims: Sequence[Claim]) -> dict[str, Any]:
    """The object of the whole installation."""
    held, waiting = _held_and_waiting(claims)
    resources = {
        each: {
            "total": _number(each, pool.get(each, 0)),
            "used": _number(each, held[each]),
            "waiting": _number(each, waiting[each]),
        }
        for each in RESOURCES
    }
    return {"object": "organization.quota.pool", **resources, "kinds": _kinds(claims)}


def _set_by(quota: Quota | None) -> str | None:
    if quota is None or not quota.limits:
        return None
    return OPERATOR if quota.by_operator else ORGANIZATION


def _resource(resource: str, limit: QuotaLimit | None, used: int, waiting: int) -> dict[str, Any]:
    borrowing = None if limit is None or limit.borrowing is None else _number(resource, limit.borrowing)
    return {
        "nominal": None if limit is None else _number(resource, limit.nominal),
        "borrowing_limit": borrowing,
        "used": _number(resource, used),
        "borrowed": 0 if limit is None else _number(resource, max(0, used - limit.nominal)),
        "waiting": _number(resource, waiting),
    }


def _kinds(claims: Sequence[Claim]) -> dict[str, Any]:
    found = {}
    for kind in Kind:
        own = [each for each in claims if each.kind is kind]
        held, waiting = _held_and_waiting(own)
        resources = {
            each: {"used": _number(each, held[each]), "waiting": _number(each, waiting[each])} for each in RESOURCES
        }
        number = sum(each.waits for each in own)
        found[kind.value] = {"running": len(own) - number, "waiting": number, **resources}
    return found


def _held_and_waiting(claims: Sequence[Claim]) -> tuple[dict[str, int], dict[str, int]]:
    return total(each for each in claims if not each.waits), total(each for each in claims if each.waits)


def _number(resource: str, amount: int) -> int | float:
    return amount / 1000 if resource == "cpu" else amount
