"""The control plane's values as JSON objects and back.

During an upgrade, one side may run the next release. Readers ignore fields that they do not know, and replace missing
fields by the defaults of the reader's own type. So every field that a later release adds has a default, and list rows
grow at their end. A field that was renamed in code keeps its JSON key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_KEY_FIELDS = tuple(Key.__dataclass_fields__)
_MODEL_FIELDS = tuple(ModelState.__dataclass_fields__)
# JSON keys by field; a field that is absent here has its own name as its key.
_KEY_NAMES = {"allowed_networks": "sources", "denied_models": "refused_models"}
_MODEL_NAMES = {"replica_endpoints": "replicas", "base_model": "base"}
_CHANGES_NAMES = {"limits_revision": "rules", "price_version": "prices", "all_models": "anew"}
_RULE_NAMES = {"thresholds": "most"}


def key_to_wire(key: Key) -> dict[str, Any]:
    """A key as a JSON object."""
    value = {_KEY_NAMES.get(name, name): getattr(key, name) for name in _KEY_FIELDS}
    models = None if key.models is None else sorted(key.models)
    sets = {"refused_models": sorted(key.denied_models), "own_models": sorted(key.own_models)}
    aliases = [[name, model] for name, model in key.aliases.items()]
    return {**value, "scopes": sorted(key.scopes), "models": models, "aliases": aliases, **sets}


def key_from_wire(value: dict[str, Any]) -> Key:
    """The inverse of `key_to_wire`."""
    found = _present_fields(value, _KEY_FIELDS, _KEY_NAMES)
    for name in ("scopes", "denied_models", "models", "own_models"):
        if found.get(name) is not None:
            found[name] = frozenset(found[name])
    if found.get("allowed_networks") is not None:
        found["allowed_networks"] = tuple(found["allowed_networks"])
    if "aliases" in found:
        found["aliases"] = {name: model for name, model, *_ in found["aliases"]}
    return Key(**found)


def model_to_wire(state: ModelState) -> dict[str, Any]:
    """The state of a model as a JSON object."""
    value = {_MODEL_NAMES.get(name, name): getattr(state, name) for name in _MODEL_FIELDS}
    return {**value, "price": list(state.price) if state.price else None}


def model_from_wire(value: dict[str, Any]) -> ModelState:
    """The inverse of `model_to_wire`."""
    found = _present_fields(value, _MODEL_FIELDS, _MODEL_NAMES)
    price = found.get("price")
    found["price"] = Price(*_leading_fields(price, Price._fields)) if price else None
    found["replica_endpoints"] = tuple(found.get("replica_endpoints", ()))
    return ModelState(**found)


def changes_to_wire(changes: Changes) -> dict[str, Any]:
    """Changes as a JSON object."""
    return {_CHANGES_NAMES.get(name, name): value for name, value in changes._asdict().items()}


def changes_from_wire(value: dict[str, Any]) -> Changes:
    """The inverse of `changes_to_wire`."""
    found = _present_fields(value, Changes._fields, _CHANGES_NAMES)
    if (subjects := found.get("subjects")) is not None:
        found["subjects"] = tuple((kind, id_) for kind, id_, *_ in subjects)
    return Changes(**{**found, "keys": tuple(found["keys"]), "models": tuple(found["models"])})


def lease_request_to_wire(request: LeaseRequest) -> dict[str, Any]:
    """A lease request as a JSON object."""
    return {
        "replica": request.instance,
        "at": request.sent_at,
        "holds": [_report_row(report) for report in request.reports],
        "newcomer": None if request.key is None else key_to_wire(request.key),
        "model": request.model,
        "least": list(request.minimum),
        "others": [[key_to_wire(query.key), query.model, list(query.minimum)] for query in request.other_queries],
    }


def lease_request_from_wire(value: dict[str, Any]) -> LeaseRequest:
    """The inverse of `lease_request_to_wire`. Raises KeyError, TypeError or ValueError for other objects."""
    return LeaseRequest(
        instance=str(value["replica"]),
        sent_at=float(value["at"]),
        reports=[_report(*_leading_fields(row, LeaseReport._fields)) for row in value["holds"]],
        key=None if value["newcomer"] is None else key_from_wire(value["newcomer"]),
        model=str(value["model"]),
        minimum=_amounts(value["least"]),
        other_queries=[_query(*_leading_fields(row, RulesQuery._fields)) for row in value.get("others", ())],
    )


def lease_response_to_wire(response: LeaseResponse) -> dict[str, Any]:
    """A lease response as a JSON object."""
    return {
        "grants": [
            [grant.rule_id, list(grant.granted), list(grant.available), grant.retry_after, grant.instances, grant.spent]
            for grant in response.grants
        ],
        "rules": None if response.rules is None else [rule_to_wire(rule) for rule in response.rules],
        "others": [[rule_to_wire(rule) for rule in rules] for rules in response.other_rules],
    }


def lease_response_from_wire(value: dict[str, Any]) -> LeaseResponse:
    """The inverse of `lease_response_to_wire`."""
    rows = (_leading_fields(row, LeaseGrant._fields) for row in value["grants"])
    grants = [LeaseGrant(rule_id, _amounts(granted), _amounts(free), *rest) for rule_id, granted, free, *rest in rows]
    rules, others = value["rules"], [[rule_from_wire(rule) for rule in rules] for rules in value.get("others", ())]
    return LeaseResponse(grants, None if rules is None else [rule_from_wire(rule) for rule in rules], others)


def rule_to_wire(rule: Rule) -> dict[str, Any]:
    """A rule as a JSON object; the database stores rules in this form, too."""
    return {_RULE_NAMES.get(name, name): value for name, value in rule._asdict().items()}


def rule_from_wire(value: dict[str, Any]) -> Rule:
    """The inverse of `rule_to_wire`."""
    return Rule(**_present_fields(value, Rule._fields, _RULE_NAMES))


def _report_row(report: LeaseReport) -> list[Any]:
    amounts = (report.used, report.reserved, report.requested, report.minimum)
    days = [list(day) for day in report.daily_spend]
    return [report.rule_id, *map(list, amounts), report.seconds_since_use, days, list(report.acknowledged)]


def _report(
    rule_id: str,
    used: list[int],
    reserved: list[int],
    requested: list[int],
    minimum: list[int],
    seconds_since_use: float,
    daily_spend: Sequence[Sequence[int]] = (),
    acknowledged: list[int] | None = None,
) -> LeaseReport:
    days = tuple((int(day), int(money)) for day, money, *_ in daily_spend)
    return LeaseReport(
        rule_id,
        used=_amounts(used),
        reserved=_amounts(reserved),
        requested=_amounts(requested),
        minimum=_amounts(minimum),
        seconds_since_use=seconds_since_use,
        daily_spend=days,
        acknowledged=_amounts(acknowledged or []),
    )


def _query(key: dict[str, Any], model: str, minimum: list[int]) -> RulesQuery:
    return RulesQuery(key_from_wire(key), str(model), _amounts(minimum))


def _amounts(row: list[int]) -> Amounts:
    return Amounts(*_leading_fields(row, Amounts._fields))


def _present_fields(value: dict[str, Any], fields: Sequence[str], names: Mapping[str, str]) -> dict[str, Any]:
    """The fields that a JSON object has; `names`: JSON keys by field, where they differ."""
    return {field: value[names.get(field, field)] for field in fields if names.get(field, field) in value}


def _leading_fields(row: list[Any], fields: Sequence[str]) -> list[Any]:
    """The fields of a row that its reader knows."""
    return row[: len(fields)]
