"""The ledger: rollups don't depend on the order and repetition of events."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from llmariner.errors import InvalidRequest, NotFound
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.usage.aggregation import ROLLUPS
from llmariner.usage.ledger import Ledger
from llmariner.usage.tables import ledger_events, ledger_hours, prices

from ..ledgers import (
    assert_rebuilt_equals_stored,
    closing_event,
    event,
    expected_rollups,
    put_price,
    request_events,
    stored_rollups,
)

NUMBERS = itertools.count()


def test_a_request_is_open_until_its_closing_event(ledger: Ledger) -> None:
    admitted, checkpoint, end = request_events("r", 5)
    assert ledger.record([admitted, checkpoint]) == 2
    request = ledger.request("r")
    assert request is not None
    assert (request["outcome"], request["closed_at"], request["completion_tokens"]) == ("open", None, 5)
    assert ledger.record([end]) == 1
    request = ledger.request("r")
    assert request is not None
    assert (request["outcome"], request["status"]) == ("succeeded", 200)
    assert (request["waited_seconds"], request["first_token_seconds"]) == (0.5, 0.75)
    assert (request["admitted_at"], request["closed_at"]) == (1000.0, 1099.0)


def test_an_unknown_request_is_none(ledger: Ledger) -> None:
    assert ledger.request("nobody") is None


def test_repeated_events_count_once(ledger: Ledger, database: Database) -> None:
    events = request_events("r", 3, 7)
    assert ledger.record(events) == 4
    before = ledger.request("r")
    assert ledger.record(events) == 0
    assert ledger.record(events[1:]) == 0
    assert ledger.request("r") == before
    with database.read() as session:
        assert session.value(select(func.count()).select_from(ledger_events)) == 4


def test_a_failed_batch_records_nothing(ledger: Ledger) -> None:
    broken = request_events("b", 1)
    del broken[2]["kind"]
    with pytest.raises(InvalidRequest):
        ledger.record([*request_events("a", 1), *broken])
    assert ledger.request("a") is None
    assert ledger.request("b") is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_order_and_repetition_of_events_gives_the_same_result(ledger: Ledger, data: st.DataObject) -> None:
    growing = st.lists(st.integers(0, 2**40), max_size=4).map(sorted)
    counts = data.draw(growing)
    first, second = f"a{next(NUMBERS)}", f"b{next(NUMBERS)}"
    ledger.record(request_events(first, *counts))
    shuffled = data.draw(st.permutations(request_events(second, *counts)))
    again = data.draw(st.lists(st.sampled_from(shuffled), max_size=3))
    for batch in (shuffled[:2], again, shuffled[2:], again):
        ledger.record(batch)
    straight, crooked = ledger.request(first), ledger.request(second)
    assert straight is not None
    assert crooked is not None
    assert straight | {"request_id": ""} == crooked | {"request_id": ""}


def test_a_late_checkpoint_neither_reopens_nor_reduces_a_request(ledger: Ledger) -> None:
    admitted, checkpoint, end = request_events("r", 5)
    ledger.record([admitted, end])
    whole = ledger.request("r")
    ledger.record([checkpoint | {"completion_tokens": 4}])
    assert ledger.request("r") == whole


def test_a_request_without_heartbeats_is_interrupted_with_its_last_usage(ledger: Ledger) -> None:
    now = time.time()
    gone, here = request_events("gone", 5), request_events("here", 5)
    ledger.record([e | {"at": now - 100} for e in gone[:2]] + [e | {"at": now - 10} for e in here[:2]])
    assert ledger.interrupt(unseen_for=60) == 1
    assert ledger.interrupt(unseen_for=60) == 0
    request, other = ledger.request("gone"), ledger.request("here")
    assert request is not None
    assert other is not None
    assert (request["outcome"], request["completion_tokens"]) == ("interrupted", 5)
    assert request["closed_at"] == request["seen_at"] == now - 100
    assert other["outcome"] == "open"


def test_a_closed_request_is_not_interrupted(ledger: Ledger) -> None:
    ledger.record(request_events("r", 5))
    assert ledger.interrupt(unseen_for=0) == 0


def test_a_closing_event_overrides_an_interruption(ledger: Ledger) -> None:
    events = request_events("r", 5)
    ledger.record(events[:2])
    ledger.interrupt(unseen_for=0)
    ledger.record(events[2:])
    request = ledger.request("r")
    assert request is not None
    assert request["outcome"] == "succeeded"


def test_the_last_request_of_a_model_is_the_latest_admission(ledger: Ledger) -> None:
    assert ledger.last_request("m") is None
    ledger.record([closing_event("a", (1, 1, 1), admitted_at=20.5), closing_event("b", (1, 1, 1), admitted_at=10.5)])
    assert ledger.last_request("m") == 20.5
    assert ledger.last_request("n") is None


RATES = (2_000_000, 500_000, 10_000_000, 7)  # 2, 0.5 and 10 nano-dollars a token; 7 a request


def test_a_request_costs_the_price_valid_at_its_admission(ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, 1000.0, (9_000_000, 9_000_000, 9_000_000, 9))
    valid = put_price(database, "m", 1000.0, 1050.0, RATES)
    put_price(database, "m", 1050.0, None, (9_000_000, 9_000_000, 9_000_000, 9))
    put_price(database, "*", 0.0, None, (1_000_000, 1_000_000, 1_000_000, 0))
    ledger.record(request_events("r", 5))
    request = ledger.request("r")
    assert request is not None
    assert (request["price_id"], request["cost"]) == (valid, (9 - 3) * 2 + 2 + 5 * 10 + 7)  # 1.5 is 2
    ledger.record([closing_event("other", (10, 5, 0), model="n")])
    other = ledger.request("other")
    assert other is not None
    assert (other["price_id"], other["cost"]) == ("price_*_0.0", 15)


def test_without_a_price_a_request_costs_nothing(ledger: Ledger) -> None:
    ledger.record(request_events("r", 5))
    request = ledger.request("r")
    assert request is not None
    assert (request["price_id"], request["cost"]) == (None, 0)


@pytest.mark.parametrize("outcome", ["cancelled", "failed", "rejected"])
def test_a_failed_request_costs_its_usage(outcome: str, ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, None, RATES)
    ledger.record(
        [closing_event("used", (9, 5, 3), outcome=outcome), closing_event("unused", (0, 0, 0), outcome=outcome)]
    )
    used, unused = ledger.request("used"), ledger.request("unused")
    assert used is not None
    assert unused is not None
    assert (used["cost"], unused["cost"]) == (71, 0)


def test_an_open_request_costs_its_usage_so_far(ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, None, RATES)
    events = request_events("r", 5, 6)
    costs = []
    for one in events:
        ledger.record([one])
        request = ledger.request("r")
        assert request is not None
        costs.append(request["cost"])
    assert costs == [0, 71, 81, 81]
    assert [state["cost"] for state in ledger.history("r")] == costs


def test_a_new_price_does_not_change_settled_requests(ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, None, RATES)
    events = request_events("r", 5)
    ledger.record(events[:1])
    put_price(database, "*", 0.0, None, (0, 0, 0, 0))
    with database.write() as session:
        session.run(prices.update().where(prices.c.model == "m").values(valid_to=500.0))
    ledger.record(events[1:])
    request = ledger.request("r")
    assert request is not None
    assert (request["price_id"], request["cost"]) == ("price_m_0.0", 71)
    assert_rebuilt_equals_stored(database, ["r"])


def test_every_field_of_a_metering_event_is_stored(ledger: Ledger, database: Database) -> None:
    times = {"waited_seconds": 3.5, "queued_seconds": 1.0, "wake_seconds": 2.5, "total_seconds": 9.25}
    ledger.record([closing_event("r", (9, 5, 3), adapter="lora", reasoning_tokens=4, first_token_seconds=4.0, **times)])
    request = ledger.request("r")
    assert request is not None
    assert {name: request[name] for name in times} == times
    assert (request["adapter"], request["reasoning_tokens"], request["first_token_seconds"]) == ("lora", 4, 4.0)
    assert_rebuilt_equals_stored(database, ["r"])


def test_an_event_of_an_older_version_is_accepted(ledger: Ledger, database: Database) -> None:
    newer = ("reasoning_tokens", "trained_tokens", "adapter", "queued_seconds", "wake_seconds", "total_seconds")
    ledger.record([{name: value for name, value in one.items() if name not in newer} for one in request_events("r", 5)])
    request = ledger.request("r")
    assert request is not None
    assert (request["reasoning_tokens"], request["adapter"], request["total_seconds"]) == (0, None, 99.0)
    assert_rebuilt_equals_stored(database, ["r"])


def test_the_first_of_two_closing_events_wins(ledger: Ledger, database: Database) -> None:
    ledger.record([closing_event("r", (9, 5, 3)), closing_event("r", (99, 55, 33), outcome="failed", status=502)])
    ledger.record([closing_event("r", (99, 55, 33), outcome="failed", status=502)])
    request = ledger.request("r")
    assert request is not None
    assert (request["outcome"], request["completion_tokens"]) == ("succeeded", 5)
    assert_rebuilt_equals_stored(database, ["r"])
    assert stored_rollups(database) == expected_rollups(database)


def test_an_interruption_is_a_separate_event(ledger: Ledger, database: Database) -> None:
    ledger.record(request_events("r", 5)[:2])
    ledger.interrupt(unseen_for=0)
    assert [state["kind"] for state in ledger.history("r")] == ["admitted", "checkpoint", "interrupted"]
    assert_rebuilt_equals_stored(database, ["r"])
    assert stored_rollups(database) == expected_rollups(database)
    ledger.record(request_events("r", 5)[2:])
    assert [state["outcome"] for state in ledger.history("r")] == ["open", "open", "interrupted", "succeeded"]
    assert_rebuilt_equals_stored(database, ["r"])
    assert stored_rollups(database) == expected_rollups(database)


def test_interruptions_span_several_transactions(ledger: Ledger, database: Database) -> None:
    ledger.record([event(f"r{number}", 0, "admitted", (1, 1, 1)) for number in range(1201)])
    assert ledger.interrupt(unseen_for=0) == 1201
    assert stored_rollups(database) == expected_rollups(database)


def test_an_unknown_request_has_no_history(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="nobody"):
        ledger.rebuild("nobody")


def test_old_requests_are_pruned_and_stay_in_the_rollups(ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, None, RATES)
    now = time.time()
    old, new, under_way = (
        request_events("old", 5),
        request_events("new", 6, admitted_at=now - 10),
        request_events("way", 7)[:2],
    )
    ledger.record([*old, *new, *under_way])
    before = stored_rollups(database)
    assert ledger.purge(older_than=3600) == 1
    assert ledger.purge(older_than=3600) == 0
    assert [ledger.request(name) is not None for name in ("old", "new", "way")] == [False, True, True]
    with database.read() as session:
        assert session.value(select(func.count()).where(ledger_events.c.request_id == "old")) == 0
        opened = select(func.sum(ledger_hours.c.requests)).where(ledger_hours.c.outcome == "open")
        assert session.value(opened.where(ledger_hours.c.start == 0)) == 1, "the one under way"
        nothing = select(func.count()).where(ledger_hours.c.requests == 0, ledger_hours.c.start == 0)
        assert session.value(nothing) == 0, "what was open and is not"
    assert stored_rollups(database) == before


def test_pruned_requests_are_not_counted_again(ledger: Ledger, database: Database) -> None:
    old, under_way = request_events("old", 5), request_events("way", 7)
    ledger.record([*old, *under_way[:2]])
    ledger.purge(older_than=3600)
    before = stored_rollups(database)
    assert ledger.record(old) == 0
    assert ledger.record(request_events("as old, and never heard of", 5)) == 0
    assert stored_rollups(database) == before
    assert ledger.record([*old, *under_way]) == 1, "one that is open continues, however old"
    assert ledger.purge(older_than=3600) == 1
    with database.read() as session:
        assert [session.value(select(func.sum(rollup.table.c.requests))) for rollup in ROLLUPS] == [2, 2, 2]


def test_concurrent_batches_with_the_same_requests_count_once(
    ledger: Ledger, database: Database, run_concurrently: Any
) -> None:
    put_price(database, "m", 0.0, None, RATES)
    events = [one for number in range(40) for one in request_events(f"r{number}", 3, 7, key_id=f"key_{number % 3}")]
    batches = [events, events[::-1], events[::2], events[1::2], events[40:], events[:120]]
    results = run_concurrently([lambda batch=batch: ledger.record(batch) for batch in batches])
    assert all(isinstance(result, int) for result in results), results
    assert sum(results) == len(events)
    assert_rebuilt_equals_stored(database, [f"r{number}" for number in range(40)])
    assert stored_rollups(database) == expected_rollups(database)
    assert sum(sums[0] for key, sums in stored_rollups(database).items() if key[0] == "ledger_hours") == 40


@pytest.mark.parametrize(
    "wrong",
    [
        *({"prompt_tokens": value} for value in (-1, 2**63, 10**400, 1.5, "5", None, True, float("nan"))),
        *({"at": value} for value in (float("inf"), float("nan"), -1.0, "x", None, 1e300)),
        *({"model": value} for value in ("a\0b", "x" * 10_000, "\ud800", 7, None)),
        *({"sequence": value} for value in (-1, 2**31, 0.5)),
        *({"status": value} for value in (-1, 10**6, "200")),
        *({"total_seconds": value} for value in (float("inf"), "1")),
        {"adapter": "\0"},
        {"outcome": 7},
    ],
    ids=lambda wrong: repr(wrong)[:40],
)
def test_an_event_out_of_the_columns_range_is_rejected_and_leaves_nothing(
    ledger: Ledger, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        ledger.record([closing_event("req_good", (9, 3, 0)), {**closing_event("req_odd", (9, 3, 0)), **wrong}])
    assert ledger.request("req_good") is None


def test_a_request_charged_by_its_bounds_is_reported_once(database: Database, ledger: Ledger) -> None:
    for _ in range(2):
        ledger.record(
            [closing_event("req_1", (9, 3, 0), uncounted=True), closing_event("req_2", (9, 3, 0), uncounted=False)]
        )
    with database.read() as session:
        reported = session.rows(select(events.c.type, events.c.subject, events.c.data))
    assert [(row.type, row.subject) for row in reported] == [("ai.llmariner.usage.uncounted.v1", "requests/req_1")]
    assert json.loads(reported[0].data)["completion_tokens"] == 3
