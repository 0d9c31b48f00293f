"""The control port's values as JSON objects and back."""

from __future__ import annotations

from typing import Any

from llmariner.gateway.control import Amounts, Grant, Hold, Key, LeaseAnswer, LeaseAsk, Rule

__all__ = ["answer_from_wire", "answer_to_wire", "ask_from_wire", "ask_to_wire", "key_from_wire", "key_to_wire"]


def key_to_wire(key: Key) -> dict[str, Any]:
    """A key."""
    value = {name: getattr(key, name) for name in key.__slots__}
    models = None if key.models is None else sorted(key.models)
    return {**value, "scopes": sorted(key.scopes), "models": models, "refused_models": sorted(key.refused_models)}


def key_from_wire(value: dict[str, Any]) -> Key:
    """Back from `key_to_wire`."""
    sets = {name: frozenset(value[name]) for name in ("scopes", "refused_models")}
    models = None if value["models"] is None else frozenset(value["models"])
    sources = None if value["sources"] is None else tuple(value["sources"])
    return Key(**{**value, **sets, "models": models, "sources": sources})


def ask_to_wire(ask: LeaseAsk) -> dict[str, Any]:
    """A process's account."""
    return {
        "replica": ask.replica,
        "at": ask.at,
        "holds": [[h.rule, *map(list, (h.used, h.taken, h.wants, h.least)), h.age] for h in ask.holds],
        "newcomer": None if ask.newcomer is None else key_to_wire(ask.newcomer),
        "model": ask.model,
        "least": list(ask.least),
    }


def ask_from_wire(value: dict[str, Any]) -> LeaseAsk:
    """Back from `ask_to_wire`."""
    return LeaseAsk(
        replica=str(value["replica"]),
        at=float(value["at"]),
        holds=[_hold(*row) for row in value["holds"]],
        newcomer=None if value["newcomer"] is None else key_from_wire(value["newcomer"]),
        model=str(value["model"]),
        least=Amounts(*value["least"]),
    )


def _hold(rule: str, used: list[int], taken: list[int], wants: list[int], least: list[int], age: float) -> Hold:
    return Hold(rule, Amounts(*used), Amounts(*taken), Amounts(*wants), Amounts(*least), age)


def answer_to_wire(answer: LeaseAnswer) -> dict[str, Any]:
    """Grants and rules."""
    return {
        "grants": [[g.rule, list(g.held), list(g.free), g.again, g.replicas, g.spent] for g in answer.grants],
        "rules": None if answer.rules is None else [r._asdict() for r in answer.rules],
    }


def answer_from_wire(value: dict[str, Any]) -> LeaseAnswer:
    """Back from `answer_to_wire`."""
    grants = [Grant(rule, Amounts(*held), Amounts(*free), *rest) for rule, held, free, *rest in value["grants"]]
    return LeaseAnswer(grants, None if value["rules"] is None else [Rule(**rule) for rule in value["rules"]])
