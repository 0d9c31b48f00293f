"""Properties of the ledger: sums are equal for every order, batching and repetition of events, however they are computed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmariner.platform.database import Database
from llmariner.usage.aggregation import ROLLUPS, apply_events, interruption_event, new_request
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import COST_PARTS, DIMENSIONS, MEASURES, UsageQuery, UsageReports
from llmariner.usage.tables import ledger_events, ledger_floor, ledger_requests, prices

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
HOUR = 3600
DAY = 86400
OUTCOMES = [("succeeded", 200), ("cancelled", 499), ("failed", 502), ("rejected", 400)]
# Explaining a failure traces every line, which takes longer than a test may.
HASTE: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
}
# Prices change within the span that requests are admitted in; one model has none of its own.
CHANGES = (0.0, 2 * HOUR + 1.5, 30 * HOUR)
RATES = ((150_000_001, 75_000_000, 600_000_333, 0), (2_000_000, 1, 9_999_999, 12), (0, 0, 1_000_000_000_000, 5))


def prices_of(database: Database) -> None:
    """Set a price list with changes, and empty the ledger: examples share a database."""
    with database.write() as session:
        for table in (ledger_events, ledger_requests, prices, *(rollup.table for rollup in ROLLUPS)):
            session.run(table.delete())
        session.upsert(ledger_floor, [{"id": 1, "admitted_at": 0}])
    with_end = zip(CHANGES, (*CHANGES[1:], None), RATES, strict=True)
    for start, end, rates in with_end:
        put_price(database, "m", start, end, rates)
    put_price(database, "*", 2 * HOUR, None, (7, 3, 1_000_001, 1))


@st.composite
def lives(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Some requests, each with all events of its meter; a request may lack its closing event, as after a crash."""
    requests = []
    for _ in range(draw(st.integers(1, 5))):
        values: dict[str, Any] = {
            "organization_id": draw(st.sampled_from(["org_1", "org_2"])),
            "project_id": draw(st.sampled_from(["proj_1", "proj_2"])),
            "user_id": draw(st.sampled_from(["user_1", "user_2"])),
            "key_id": draw(st.sampled_from(["key_1", "key_2"])),
            "model": draw(st.sampled_from(["m", "n"])),
            "route": draw(st.sampled_from(["chat_completions", "embeddings"])),
            "admitted_at": draw(st.sampled_from([1.5, 2 * HOUR, 2 * HOUR + 1.5, 25 * HOUR - 0.001, 31 * HOUR])),
        }
        counts = sorted(draw(st.lists(st.integers(0, 10**7), max_size=3)))
        prompt = draw(st.integers(0, 10**6))
        cached = draw(st.integers(0, prompt))
        name = f"r{next(NUMBERS)}"
        made = [event(name, 0, "admitted", (0, 0, 0), at=values["admitted_at"] + 0.5, **values)]
        for number, count in enumerate(counts, 1):
            at = values["admitted_at"] + number
            made.append(event(name, number, "checkpoint", (prompt, count, cached), at=at, **values))
        if not draw(st.booleans()):
            outcome, status = draw(st.sampled_from(OUTCOMES))
            last = (prompt, (counts or [0])[-1] + draw(st.integers(0, 9)), cached)
            seconds = draw(st.sampled_from([None, 0.25, 1.0000005]))
            said = {"outcome": outcome, "status": status, "first_token_seconds": seconds, "total_seconds": 7.125}
            made.append(closing_event(name, last, at=values["admitted_at"] + 99, **values, **said))
        requests.append(made)
    return requests


def record_in_order(ledger: Ledger, requests: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Record every event once, in order; then interrupt requests without a closing event."""
    for made in requests:
        ledger.record(made)
    ledger.interrupt(unseen_for=0)


def record_out_of_order(data: st.DataObject, ledger: Ledger, requests: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Record events shuffled, in batches, some twice, with the sweep at any time in between; all arrive in the end."""
    events = [one for made in requests for one in made]
    order = data.draw(st.permutations(events))
    order += data.draw(st.lists(st.sampled_from(events), max_size=6))
    while order:
        size = data.draw(st.integers(1, 6))
        batch, order = order[:size], order[size:]
        ledger.record(batch)
        if data.draw(st.booleans()):
            ledger.record(batch)  # the meter heard no answer
        if data.draw(st.integers(0, 3)) == 0:
            ledger.interrupt(unseen_for=0)
    ledger.interrupt(unseen_for=0)


def renamed(requests: Sequence[Sequence[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The same events under other request ids."""
    return [[{**one, "request_id": one["request_id"] + "b"} for one in made] for made in requests]


def spent(ledger: Ledger, request_id: str) -> dict[str, Any]:
    """A request without the fields that depend on when the sweep ran: it may interrupt one whose last events are late."""
    found = ledger.request(request_id)
    assert found is not None
    loose = {"request_id", "closed_at", "total_seconds"} if found["outcome"] == "interrupted" else {"request_id"}
    return {name: value for name, value in found.items() if name not in loose}


@settings(max_examples=50, **HASTE)
@given(st.data(), lives())
def test_any_order_of_events_gives_the_same_balances(
    ledger: Ledger, database: Database, data: st.DataObject, requests: list[list[dict[str, Any]]]
) -> None:
    prices_of(database)
    record_in_order(ledger, requests)
    again = renamed(requests)
    record_out_of_order(data, ledger, again)
    names = [made[0]["request_id"] for made in requests]
    for name in names:
        assert spent(ledger, name) == spent(ledger, name + "b")
    assert_rebuilt_equals_stored(database, [*names, *(name + "b" for name in names)])
    assert stored_rollups(database) == expected_rollups(database)


@settings(max_examples=10, **HASTE)
@given(st.data(), lives())
def test_sums_by_every_grouping_agree_before_and_after_pruning(
    ledger: Ledger, database: Database, data: st.DataObject, requests: list[list[dict[str, Any]]]
) -> None:
    prices_of(database)
    record_out_of_order(data, ledger, requests)
    reports = UsageReports(database)
    end = 3 * DAY
    whole = UsageQuery("org_1", 0, end, measures=(*MEASURES, *COST_PARTS))
    totals = added(reports.sums(whole), whole.measures)
    for groups in [(), *itertools.combinations(DIMENSIONS, 1), *itertools.combinations(DIMENSIONS, 2), DIMENSIONS]:
        width = data.draw(st.sampled_from([None, HOUR, DAY, 7 * DAY]))
        rows = reports.sums(UsageQuery("org_1", 0, end, groups, width, measures=(*MEASURES, *COST_PARTS)))
        assert added(rows, whole.measures) == totals, (groups, width)
        keys = [tuple(row[name] for name in (*groups, *(("start",) if width else ()))) for row in rows]
        assert len(set(keys)) == len(keys)
    # From single requests, minute by minute, as far as they are stored.
    by_minute = reports.sums(UsageQuery("org_1", 0, 3 * DAY, ("model",), 60))
    assert added(by_minute, MEASURES) == {name: totals[name] for name in MEASURES}
    assert sum(totals[name] for name in COST_PARTS) <= totals["cost"]
    ledger.purge(older_than=0)
    assert added(reports.sums(whole), whole.measures) == totals


def added(rows: list[dict[str, Any]], measures: Sequence[str]) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in measures}


@given(st.data())
def test_the_aggregation_is_commutative(data: st.DataObject) -> None:
    events = request_events("r", 3, 7)
    state = apply_events(new_request(events[0], None), events[:2], None)
    events.append(interruption_event(state))
    in_order = apply_events(new_request(events[0], None), events, None)
    assert (in_order["outcome"], in_order["closed_at"]) == ("succeeded", 1099.0)
    assert apply_events(new_request(events[0], None), data.draw(st.permutations(events)), None) == in_order
