"""Reports: read from rollups and single requests, and exact at both ends of a span."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database
from llmariner.usage.buckets import bucket_page
from llmariner.usage.ledger import Ledger
from llmariner.usage.reports import COST_PARTS, MEASURES, UsageQuery, UsageReports

from ..ledgers import TOKENS, closing_event, event, put_price

HOUR, DAY = 3600, 86400
MILLISECONDS = st.integers(0, 4 * DAY * 1000).map(lambda number: number / 1000)
FIELDS = ("requests", "successful_requests", *TOKENS)


@pytest.fixture
def reports(database: Database) -> UsageReports:
    return UsageReports(database)


def many(ledger: Ledger) -> None:
    """Requests of two keys, two models, three days; one of another organization."""
    for number, (key, model, day) in enumerate(itertools.product(("key_1", "key_2"), ("m", "n"), range(3))):
        said = {"key_id": key, "model": model, "admitted_at": day * DAY + 10.5}
        outcome = {"outcome": "failed", "status": 502} if number % 4 == 0 else {}
        ledger.record([closing_event(f"r{number}", (number, 10 * number, 1), **said, **outcome)])
    ledger.record([closing_event("theirs", (1000, 1000, 1000), organization_id="org_2")])


def rows(reports: UsageReports, start: float = 0.0, end: float = 1e10, **asked: Any) -> list[dict[str, Any]]:
    return reports.sums(UsageQuery("org_1", start, end, **asked))


def test_every_grouping_has_the_same_total(reports: UsageReports, ledger: Ledger) -> None:
    many(ledger)
    for group in itertools.permutations(("key_id", "model", "project_id"), 2):
        found = rows(reports, group_by=group, width=DAY)
        assert {name: sum(row[name] for row in found) for name in FIELDS} == {
            "requests": 12,
            "successful_requests": 9,
            "prompt_tokens": 66,
            "completion_tokens": 660,
            "cached_tokens": 12,
        }
        assert [row["start"] for row in found] == sorted(row["start"] for row in found)
        assert {row["start"] for row in found} == {0, DAY, 2 * DAY}


def test_only_requested_columns_are_summed(reports: UsageReports, ledger: Ledger) -> None:
    many(ledger)
    assert [row["requests"] for row in rows(reports, where={"model": ("m",)})] == [6]
    assert [row["requests"] for row in rows(reports, where={"model": ("m",), "status": (502,)})] == [2]
    assert [row["requests"] for row in rows(reports, where={"model": ("m", "n"), "key_id": ("key_2",)})] == [6]
    assert rows(reports, where={"model": ()}) == []
    assert rows(reports, where={"project_id": ("proj_9",)}) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    MILLISECONDS,
    MILLISECONDS.map(lambda length: length + 0.001),
    st.sampled_from([None, 60, 1800, HOUR, 5 * HOUR, DAY, 2 * DAY]),
)
def test_a_span_is_exact_at_both_ends(
    reports: UsageReports, ledger: Ledger, start: float, length: float, width: int | None
) -> None:
    moments = [number * 7919.25 for number in range(44)]
    ledger.record(closing_event(f"r{number}", (1, 2, 0), admitted_at=at) for number, at in enumerate(moments))
    end = start + length
    found = rows(reports, start, end, width=width)
    inside = [at for at in moments if start <= at < end]
    assert sum(row["requests"] for row in found) == len(inside)
    if width is not None:
        assert {row["start"] for row in found} == {int(at // width * width) for at in inside}


def test_latencies_are_of_completed_requests(reports: UsageReports, ledger: Ledger) -> None:
    ledger.record([closing_event("a", (1, 1, 0), total_seconds=1.5, first_token_seconds=0.25)])
    ledger.record([closing_event("b", (1, 1, 0), total_seconds=2.5, first_token_seconds=None)])
    ledger.record([event("c", 0, "admitted", (0, 0, 0))])
    for start in (0.0, 1.0):  # from sums; from requests
        [row] = rows(reports, start, 1001.0 if start else 1e10)
        assert (row["requests"], row["ended_requests"], row["first_tokens"]) == (3, 2, 1)
        assert (row["total_microseconds"], row["first_token_microseconds"]) == (4_000_000, 250_000)


def test_sums_may_exceed_32_bits(reports: UsageReports, ledger: Ledger) -> None:
    for number in range(3):
        ledger.record([closing_event(f"r{number}", (2**39, 2**40, 2**38))])
    [row] = rows(reports)
    assert [row[name] for name in TOKENS] == [3 * 2**39, 3 * 2**40, 3 * 2**38]


def test_cost_components_add_up(reports: UsageReports, ledger: Ledger, database: Database) -> None:
    put_price(database, "m", 0.0, None, (2_000_000, 500_000, 10_000_000, 7))
    ledger.record([closing_event("a", (9, 5, 3)), closing_event("b", (1, 1, 0), outcome="failed", status=500)])
    [row] = rows(reports, measures=(*MEASURES, *COST_PARTS))
    parts = [row[name] for name in ("prompt_cost", "cached_cost", "completion_cost")]
    assert (parts, row["cost"]) == ([12 + 2, 2, 60], 14 + 2 + 60 + 14)


def test_pruned_requests_are_reported_by_whole_hours(reports: UsageReports, ledger: Ledger) -> None:
    many(ledger)
    ledger.purge(older_than=3600)
    assert rows(reports, 10.6, DAY, width=HOUR)[0]["requests"] == 4, "the hour in which the span begins"
    assert rows(reports, 0, 10.0)[0]["requests"] == 4, "the hour in which it ends"
    with pytest.raises(InvalidRequest) as refused:
        rows(reports, 0, DAY, width=60)
    assert refused.value.param == "start_time"
    now = time.time()
    ledger.record([closing_event("new", (1, 1, 1), admitted_at=now)])
    assert rows(reports, now - 60, now + 60, width=60)[0]["requests"] == 1


def test_an_empty_span_is_rejected() -> None:
    for end in (5.0, 4.0):
        with pytest.raises(InvalidRequest) as refused:
            UsageQuery("org_1", 5.0, end)
        assert refused.value.param == "end_time"


def test_pages_of_buckets_are_consecutive_and_end() -> None:
    page, starts = None, []
    while True:
        current = bucket_page(start=DAY + 7, end=10 * DAY + 1, width="1d", limit=4, page=page)
        answer = current.render([{"start": 3 * DAY}], lambda found: found)
        starts += [bucket["start_time"] for bucket in answer["data"]]
        assert [bucket["end_time"] - bucket["start_time"] for bucket in answer["data"]] == [DAY] * len(answer["data"])
        page = answer["next_page"]
        assert answer["has_more"] == (page is not None)
        if page is None:
            break
    assert starts == [day * DAY for day in range(1, 11)]


@pytest.mark.parametrize(
    "page", ["", "page_", "page_x", "page_-1", "page_²", "86400", "page_86401", "page_0", "page_" + "9" * 40]
)
def test_an_invalid_page_token_is_rejected(page: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bucket_page(start=DAY, end=3 * DAY, width="1d", limit=1, page=page)
    assert refused.value.param == "page"
