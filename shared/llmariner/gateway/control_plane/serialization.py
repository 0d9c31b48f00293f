"""The control port's values as JSON objects and back.

While an upgrade is under way, one side may be of the next version: what a value has more than its reader knows is left
alone, and what it lacks is what the reader's own type says by default. So every field added after a release has a default,
and rows of a list grow at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmariner.gateway.control_plane.port import (
    Amounts,
    Changes,
    Key,
    LeaseGrant,
    LeaseReport,
    LeaseRequest,
    LeaseResponse,
    ModelState,
    Rule,
    RulesQuery,
)
from llmariner.gateway.metering.pricing import Price

__all__ = [
    "changes_from_wire",
    "changes_to_wire",
    "key_from_wire",
    "key_to_wire",
    "lease_request_from_wire",
    "lease_request_to_wire",
    "lease_response_from_wire",
    "lease_response_to_wire",
    "model_from_wire",
    "model_to_wire",
    "rule_from_wire",
    "rule_to_wire",
]

# Fields whose JSON keys are older than their names.
_RULE_KEYS = {"thresholds": "most"}


def key_to_wire(key: Key) -> dict[str, Any]:
    """A key."""
    value = {name: getattr(key, name) for name in key.__slots__}
    models = None if key.models is None else sorted(key.models)
    return {**value, "scopes": sorted(key.scopes), "models": models, **_sorted(key)}


def _sorted(key: Key) -> dict[str, list[str]]:
    return {"refused_models": sorted(key.refused_models), "own_models": sorted(key.own_models)}


def key_from_wire(value: dict[str, Any]) -> Key:
    """Back from `key_to_wire`."""
    found = _present_fields(value, Key.__slots__)
    for name in ("scopes", "refused_models", "models", "own_models"):
        if found.get(name) is not None:
            found[name] = frozenset(found[name])
    if found.get("sources") is not None:
        found["sources"] = tuple(found["sources"])
    return Key(**found)


def model_to_wire(state: ModelState) -> dict[str, Any]:
    """A model's state."""
    value = {name: getattr(state, name) for name in state.__slots__}
    return {**value, "price": list(state.price) if state.price else None}


def model_from_wire(value: dict[str, Any]) -> ModelState:
    """Back from `model_to_wire`."""
    found = _present_fields(value, ModelState.__slots__)
    price = found.get("price")
    found["price"] = Price(*_leading_fields(price, Price._fields)) if price else None
    found["replicas"] = tuple(found.get("replicas", ()))
    return ModelState(**found)


def changes_to_wire(changes: Changes) -> dict[str, Any]:
    """What changed."""
    return changes._asdict()


def changes_from_wire(value: dict[str, Any]) -> Changes:
    """Back from `changes_to_wire`."""
    found = _present_fields(value, Changes._fields)
    if (subjects := found.get("subjects")) is not None:
        found["subjects"] = tuple((kind, id_) for kind, id_, *_ in subjects)
    return Changes(**{**found, "keys": tuple(found["keys"]), "models": tuple(found["models"])})


def lease_request_to_wire(request: LeaseRequest) -> dict[str, Any]:
    """A process's account."""
    return {
        "replica": request.instance,
        "at": request.sent_at,
        "holds": [_report_row(report) for report in request.reports],
        "newcomer": None if request.key is None else key_to_wire(request.key),
        "model": request.model,
        "least": list(request.minimum),
        "others": [[key_to_wire(each.key), each.model, list(each.minimum)] for each in request.other_queries],
    }


def _report_row(report: LeaseReport) -> list[Any]:
    amounts = (report.used, report.reserved, report.requested, report.minimum)
    days = [list(day) for day in report.daily_spend]
    return [report.rule_id, *map(list, amounts), report.seconds_since_use, days, list(report.acknowledged)]


def lease_request_from_wire(value: dict[str, Any]) -> LeaseRequest:
    """Back from `ask_to_wire`."""
    return LeaseRequest(
        instance=str(value["replica"]),
        sent_at=float(value["at"]),
        reports=[_lease_report(*_leading_fields(row, LeaseReport._fields)) for row in value["holds"]],
        key=None if value["newcomer"] is None else key_from_wire(value["newcomer"]),
        model=str(value["model"]),
        minimum=_amounts(value["least"]),
        other_queries=[_rules_query(*_leading_fields(row, RulesQuery._fields)) for row in value.get("others", ())],
    )


def _rules_query(key: dict[str, Any], model: str, least: list[int]) -> RulesQuery:
    return RulesQuery(key_from_wire(key), str(model), _amounts(least))


def _lease_report(
    rule: str,
    used: list[int],
    taken: list[int],
    wants: list[int],
    least: list[int],
    age: float,
    days: Sequence[Sequence[int]] = (),
    known: list[int] | None = None,
) -> LeaseReport:
    told = tuple((int(day), int(money)) for day, money, *_ in days)
    return LeaseReport(
        rule, _amounts(used), _amounts(taken), _amounts(wants), _amounts(least), age, told, _amounts(known or [])
    )


def lease_response_to_wire(answer: LeaseResponse) -> dict[str, Any]:
    """Grants and rules."""
    return {
        "grants": [
            [g.rule_id, list(g.granted), list(g.available), g.retry_after, g.instances, g.spent] for g in answer.grants
        ],
        "rules": None if answer.rules is None else [rule_to_wire(rule) for rule in answer.rules],
        "others": [[rule_to_wire(rule) for rule in rules] for rules in answer.other_rules],
    }


def lease_response_from_wire(value: dict[str, Any]) -> LeaseResponse:
    """Back from `answer_to_wire`."""
    rows = (_leading_fields(row, LeaseGrant._fields) for row in value["grants"])
    grants = [LeaseGrant(rule, _amounts(held), _amounts(free), *rest) for rule, held, free, *rest in rows]
    rules = value["rules"]
    return LeaseResponse(grants, None if rules is None else _rules(rules), [*map(_rules, value.get("others", ()))])


def rule_to_wire(rule: Rule) -> dict[str, Any]:
    """A limit or a budget, which is also stored in this form."""
    return {_RULE_KEYS.get(name, name): value for name, value in rule._asdict().items()}


def rule_from_wire(value: dict[str, Any]) -> Rule:
    """Back from `rule_to_wire`."""
    keys = {name: _RULE_KEYS.get(name, name) for name in Rule._fields}
    return Rule(**{name: value[key] for name, key in keys.items() if key in value})


def _rules(rules: list[dict[str, Any]]) -> list[Rule]:
    return [rule_from_wire(rule) for rule in rules]


def _amounts(row: list[int]) -> Amounts:
    return Amounts(*_leading_fields(row, Amounts._fields))


def _present_fields(value: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: value[name] for name in fields if name in value}


def _leading_fields(row: list[Any], fields: Sequence[str]) -> list[Any]:
    return row[: len(fields)]
