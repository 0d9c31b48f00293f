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
    Grant,
    Hold,
    Key,
    LeaseAnswer,
    LeaseAsk,
    ModelState,
    Newcomer,
    Rule,
)
from llmariner.gateway.metering.pricing import Price

__all__ = [
    "answer_from_wire",
    "answer_to_wire",
    "ask_from_wire",
    "ask_to_wire",
    "changes_from_wire",
    "changes_to_wire",
    "key_from_wire",
    "key_to_wire",
    "model_from_wire",
    "model_to_wire",
]


def key_to_wire(key: Key) -> dict[str, Any]:
    """A key."""
    value = {name: getattr(key, name) for name in key.__slots__}
    models = None if key.models is None else sorted(key.models)
    return {**value, "scopes": sorted(key.scopes), "models": models, **_sorted(key)}


def _sorted(key: Key) -> dict[str, list[str]]:
    return {"refused_models": sorted(key.refused_models), "own_models": sorted(key.own_models)}


def key_from_wire(value: dict[str, Any]) -> Key:
    """Back from `key_to_wire`."""
    found = _known(value, Key.__slots__)
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
    found = _known(value, ModelState.__slots__)
    price = found.get("price")
    found["price"] = Price(*_row(price, Price._fields)) if price else None
    found["replicas"] = tuple(found.get("replicas", ()))
    return ModelState(**found)


def changes_to_wire(changes: Changes) -> dict[str, Any]:
    """What changed."""
    return changes._asdict()


def changes_from_wire(value: dict[str, Any]) -> Changes:
    """Back from `changes_to_wire`."""
    found = _known(value, Changes._fields)
    if (subjects := found.get("subjects")) is not None:
        found["subjects"] = tuple((kind, id_) for kind, id_, *_ in subjects)
    return Changes(**{**found, "keys": tuple(found["keys"]), "models": tuple(found["models"])})


def ask_to_wire(ask: LeaseAsk) -> dict[str, Any]:
    """A process's account."""
    return {
        "replica": ask.replica,
        "at": ask.at,
        "holds": [
            [h.rule, *map(list, (h.used, h.taken, h.wants, h.least)), h.age, list(map(list, h.days)), list(h.known)]
            for h in ask.holds
        ],
        "newcomer": None if ask.newcomer is None else key_to_wire(ask.newcomer),
        "model": ask.model,
        "least": list(ask.least),
        "others": [[key_to_wire(each.key), each.model, list(each.least)] for each in ask.others],
    }


def ask_from_wire(value: dict[str, Any]) -> LeaseAsk:
    """Back from `ask_to_wire`."""
    return LeaseAsk(
        replica=str(value["replica"]),
        at=float(value["at"]),
        holds=[_hold(*_row(row, Hold._fields)) for row in value["holds"]],
        newcomer=None if value["newcomer"] is None else key_from_wire(value["newcomer"]),
        model=str(value["model"]),
        least=_amounts(value["least"]),
        others=[_newcomer(*_row(row, Newcomer._fields)) for row in value.get("others", ())],
    )


def _newcomer(key: dict[str, Any], model: str, least: list[int]) -> Newcomer:
    return Newcomer(key_from_wire(key), str(model), _amounts(least))


def _hold(
    rule: str,
    used: list[int],
    taken: list[int],
    wants: list[int],
    least: list[int],
    age: float,
    days: Sequence[Sequence[int]] = (),
    known: list[int] | None = None,
) -> Hold:
    told = tuple((int(day), int(money)) for day, money, *_ in days)
    return Hold(
        rule, _amounts(used), _amounts(taken), _amounts(wants), _amounts(least), age, told, _amounts(known or [])
    )


def answer_to_wire(answer: LeaseAnswer) -> dict[str, Any]:
    """Grants and rules."""
    return {
        "grants": [[g.rule, list(g.held), list(g.free), g.again, g.replicas, g.spent] for g in answer.grants],
        "rules": None if answer.rules is None else [r._asdict() for r in answer.rules],
        "others": [[r._asdict() for r in rules] for rules in answer.others],
    }


def answer_from_wire(value: dict[str, Any]) -> LeaseAnswer:
    """Back from `answer_to_wire`."""
    rows = (_row(row, Grant._fields) for row in value["grants"])
    grants = [Grant(rule, _amounts(held), _amounts(free), *rest) for rule, held, free, *rest in rows]
    rules = value["rules"]
    return LeaseAnswer(grants, None if rules is None else _rules(rules), [*map(_rules, value.get("others", ()))])


def _rules(rules: list[dict[str, Any]]) -> list[Rule]:
    return [Rule(**_known(rule, Rule._fields)) for rule in rules]


def _amounts(row: list[int]) -> Amounts:
    return Amounts(*_row(row, Amounts._fields))


def _known(value: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: value[name] for name in fields if name in value}


def _row(row: list[Any], fields: Sequence[str]) -> list[Any]:
    return row[: len(fields)]
