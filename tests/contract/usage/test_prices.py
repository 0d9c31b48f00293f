"""The price list: at most one price per model and time, and a price that was valid never changes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.gateway.metering.pricing import FREE, Cost, Price
from llmariner.platform.database import Database
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller
from llmariner.usage.prices import ListedPrice, NewPrice, PriceList, Prices

COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens")


@pytest.fixture
def list_(database: Database) -> Prices:
    return Prices(database)


@pytest.fixture
def caller(owner: KeyOwner) -> Caller:
    """An owner of the organization that runs the installation."""
    return Caller(owner.user_id, "admin@localhost", owner.organization_id, None, "owner", None, frozenset())


def at(database: Database, model: str, when: float) -> str | None:
    with database.read() as session:
        price = PriceList.for_models(session, [model]).at(model, when)
    return None if price is None else price.id


def test_a_new_price_ends_the_previous_one(list_: Prices, caller: Caller, database: Database) -> None:
    now = time.time()
    first = list_.set(caller, NewPrice("m", 10, 20))
    second = list_.set(caller, NewPrice("m", 30, 40, valid_from=now + 1000))
    assert first.valid_from == pytest.approx(now, abs=5)
    assert [price.id for price in list_.all(model="m")] == [first.id, second.id]
    assert [price.valid_to for price in list_.all()] == [now + 1000, None]
    assert at(database, "m", first.valid_from - 0.001) is None
    assert at(database, "m", now + 999) == first.id
    assert at(database, "m", now + 1000) == second.id
    now_price = list_.current("m")
    assert now_price == Price(first.id, 10, 10, 20, 0)


def test_prices_of_projects_and_shared_prices_coexist(
    list_: Prices, caller: Caller, owner: KeyOwner, database: Database
) -> None:
    shared = list_.set(caller, NewPrice("m", 10, 20))
    own = list_.set(caller, NewPrice("m", 30, 40, project_id=owner.project_id))
    assert [price.valid_to for price in list_.all()] == [None, None]
    assert list_.current("m") == shared.price
    assert list_.current("m", project_id=owner.project_id) == own.price
    assert list_.current("m", project_id="proj_other") is None
    assert list_.current("tuned", "m", project_id=owner.project_id) == shared.price
    assert list_.current("tuned", "m", project_id=owner.project_id, base_project_id=owner.project_id) == own.price
    again = list_.set(caller, NewPrice("m", 50, 60, project_id=owner.project_id))
    with database.read() as session:
        known = PriceList.for_models(session, ["m"], [owner.project_id])
    assert (known.at("m", again.valid_from), known.by_id(own.id)) == (shared.price, own.price)
    assert known.at("m", again.valid_from, project_id=owner.project_id) == again.price
    with pytest.raises(InvalidRequest, match="No project"):
        list_.set(caller, NewPrice("m", 1, 1, project_id="proj_unknown"))


def test_a_projects_price_is_visible_to_the_project_and_operators(
    list_: Prices, caller: Caller, owner: KeyOwner
) -> None:
    list_.set(caller, NewPrice("secret-name", 30, 40, project_id=owner.project_id))
    list_.set(caller, NewPrice("*", 30, 40))

    def seen(seer: Caller) -> list[str]:
        return [price.model for price in list_.visible_to(seer)]

    own, other = (
        replace(caller, organization_role="reader", project_id=project_id) for project_id in (owner.project_id, "p")
    )
    assert seen(caller) == seen(own) == ["*", "secret-name"]
    assert seen(other) == seen(replace(caller, organization_id="org_other", project_id="p")) == ["*"]


def test_a_price_between_two_others_ends_at_the_next_start(list_: Prices, caller: Caller, database: Database) -> None:
    now = time.time()
    late = list_.set(caller, NewPrice("m", 1, 1, valid_from=now + 300))
    early = list_.set(caller, NewPrice("m", 2, 2, valid_from=now + 100))
    again = list_.set(caller, NewPrice("m", 3, 3, valid_from=now + 100))
    found = [(at(database, "m", now + seconds)) for seconds in (0, 99, 100, 299, 300, 10**6)]
    assert found == [None, None, again.id, again.id, late.id, late.id]
    assert next(price for price in list_.all() if price.id == early.id).valid_to == now + 100, (
        "replaced before it began"
    )


def test_a_model_without_a_price_has_the_default_price(list_: Prices, caller: Caller, database: Database) -> None:
    everything = list_.set(caller, NewPrice("*", 1, 1))
    own = list_.set(caller, NewPrice("org/m", 2, 2))
    assert at(database, "org/m", time.time()) == own.id
    assert at(database, "other", time.time()) == everything.id
    assert [price.id for price in list_.all(at=time.time())] == [everything.id, own.id]
    assert list_.all(at=1.0) == []


def test_a_price_cannot_start_in_the_past(list_: Prices, caller: Caller) -> None:
    with pytest.raises(InvalidRequest) as refused:
        list_.set(caller, NewPrice("m", 1, 1, valid_from=time.time() - 3600))
    assert refused.value.param == "valid_from"
    assert list_.all() == []
    before = time.time()
    # By a clock that is behind: what was used until now may be settled.
    assert list_.set(caller, NewPrice("m", 1, 1, valid_from=before - 30)).valid_from >= before - 1


def test_only_operators_set_prices(list_: Prices, caller: Caller, other_owner: KeyOwner) -> None:
    with pytest.raises(PermissionDenied):
        list_.set(replace(caller, organization_id=other_owner.organization_id), NewPrice("m", 0, 0))
    assert list_.all() == []


def test_a_new_price_is_in_the_audit_log(list_: Prices, caller: Caller, database: Database) -> None:
    made = list_.set(caller, NewPrice("m", 1, 1))
    with database.read() as session:
        [entry] = session.rows(select(audit_log).where(audit_log.c.type == "price.created"))
    assert made.id in entry.payload


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"prompt": -1}, "prompt"),
        ({"completion": 10**15 + 1}, "completion"),
        ({"cached_prompt": -1}, "cached_prompt"),
        ({"request": -1}, "request"),
    ],
)
def test_an_invalid_price_is_rejected(values: dict[str, Any], param: str) -> None:
    said: dict[str, Any] = {"model": "m", "prompt": 1, "completion": 1} | values
    with pytest.raises(InvalidRequest) as refused:
        NewPrice(**said)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("tokens", "outcome", "expected"),
    [
        ((10, 0, 5), "succeeded", (20, 0, 50, 7)),
        ((10, 4, 5), "cancelled", (12, 2, 50, 7)),
        ((10, 40, 0), "failed", (0, 5, 0, 7)),
        ((0, 0, 0), "rejected", (0, 0, 0, 0)),
        ((0, 0, 0), "succeeded", (0, 0, 0, 7)),
        ((0, 0, 0), "open", (0, 0, 0, 0)),
    ],
)
def test_cost_components_of_a_request(tokens: tuple[int, int, int], outcome: str, expected: tuple[int, ...]) -> None:
    price = Price("price_1", 2_000_000, 500_000, 10_000_000, 7)
    cost = price.cost(dict(zip(COUNTS, tokens, strict=True)), outcome)
    assert tuple(cost) == (*expected, 0)
    assert cost.total == sum(expected)
    assert FREE.total == 0


def test_a_training_costs_its_tokens_alone() -> None:
    price = Price("price_1", 2_000_000, 500_000, 10_000_000, 7, 3_000_001)
    assert price.training_cost(100_000) == Cost(training=300_000)
    assert price.training_cost(500_000).total == 1_500_001


@given(st.integers(0, 10**9), st.integers(0, 10**15))
def test_a_component_is_off_by_half_a_nano_dollar_at_most(count: int, rate: int) -> None:
    price = Price("price_1", rate, 0, rate, 0)
    cost = price.cost({"prompt_tokens": count, "cached_tokens": 0, "completion_tokens": count}, "succeeded")
    assert cost.prompt == cost.completion
    assert abs(cost.prompt * 10**6 - count * rate) * 2 <= 10**6


def test_a_price_is_found_by_id(database: Database) -> None:
    listed = ListedPrice("price_1", "m", 0.0, 1.0, 1, 1, 1, 1, 1)
    assert PriceList([listed]).by_id("price_1") == listed.price
    assert PriceList([listed]).by_id("price_2") is None
    assert PriceList([listed]).by_id(None) is None
