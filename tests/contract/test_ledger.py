"""The ledger: whatever way its events come, the sums are the same and add up."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from llmariner.errors import InvalidRequest
from llmariner.platform.database import Database
from llmariner.usage.ledger import Ledger, UsageQuery
from llmariner.usage.tables import ledger_events

LAST = 2**31 - 1
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
DAY = 86400
NUMBERS = itertools.count()


def event(request_id: str, sequence: int, kind: str, tokens: tuple[int, int, int], **values: Any) -> dict[str, Any]:
    """A ledger event as the meter makes it."""
    identity = {"organization_id": "org_1", "project_id": "proj_1", "user_id": "user_1", "key_id": "key_1"}
    said = {"model": "m", "route": "chat_completions", "admitted_at": 1000.0, "at": 1000.0 + min(sequence, 99)}
    said |= {"outcome": "open", "status": 0, "waited_seconds": None, "first_token_seconds": None}
    counts = dict(zip(TOKENS, tokens, strict=True))
    return {"request_id": request_id, "sequence": sequence, "kind": kind, **identity, **said, **counts, **values}


def closed(request_id: str, tokens: tuple[int, int, int], **values: Any) -> dict[str, Any]:
    said = {"outcome": "succeeded", "status": 200, "waited_seconds": 0.5, "first_token_seconds": 0.75}
    return event(request_id, LAST, "closed", tokens, **(said | values))


def life(request_id: str, *counts: int) -> list[dict[str, Any]]:
    """Admitted, a checkpoint per count, closed."""
    checkpoints = [event(request_id, n + 1, "checkpoint", (9, count, 3)) for n, count in enumerate(counts)]
    end = closed(request_id, (9, (counts or (1,))[-1], 3))
    return [event(request_id, 0, "admitted", (0, 0, 0)), *checkpoints, end]


def rows(ledger: Ledger, **query: Any) -> list[dict[str, Any]]:
    said: dict[str, Any] = {"project_id": "proj_1", "start_time": 0.0, "end_time": 1e10} | query
    return ledger.usage(UsageQuery(**said))


def test_a_request_is_open_until_its_closing_event(ledger: Ledger) -> None:
    admitted, checkpoint, end = life("r", 5)
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


def test_events_that_come_twice_count_once(ledger: Ledger, database: Database) -> None:
    events = life("r", 3, 7)
    assert ledger.record(events) == 4
    before = ledger.request("r")
    assert ledger.record(events) == 0
    assert ledger.record(events[1:]) == 0
    assert ledger.request("r") == before
    with database.read() as session:
        assert session.value(select(func.count()).select_from(ledger_events)) == 4


def test_a_batch_that_fails_is_recorded_not_at_all(ledger: Ledger) -> None:
    broken = life("b", 1)
    del broken[2]["kind"]
    with pytest.raises(InvalidRequest):
        ledger.record([*life("a", 1), *broken])
    assert ledger.request("a") is None
    assert ledger.request("b") is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_events_in_any_order_and_number_fold_to_the_same(ledger: Ledger, data: st.DataObject) -> None:
    growing = st.lists(st.integers(0, 2**40), max_size=4).map(sorted)
    counts = data.draw(growing)
    first, second = f"a{next(NUMBERS)}", f"b{next(NUMBERS)}"
    ledger.record(life(first, *counts))
    shuffled = data.draw(st.permutations(life(second, *counts)))
    again = data.draw(st.lists(st.sampled_from(shuffled), max_size=3))
    for batch in (shuffled[:2], again, shuffled[2:], again):
        ledger.record(batch)
    straight, crooked = ledger.request(first), ledger.request(second)
    assert straight is not None
    assert crooked is not None
    assert straight | {"request_id": ""} == crooked | {"request_id": ""}


def test_a_late_checkpoint_does_not_reopen_or_lessen_a_request(ledger: Ledger) -> None:
    admitted, checkpoint, end = life("r", 5)
    ledger.record([admitted, end])
    whole = ledger.request("r")
    ledger.record([checkpoint | {"completion_tokens": 4}])
    assert ledger.request("r") == whole


def test_a_request_without_a_sign_of_life_is_interrupted_with_what_it_had(ledger: Ledger) -> None:
    now = time.time()
    gone, here = life("gone", 5), life("here", 5)
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
    ledger.record(life("r", 5))
    assert ledger.interrupt(unseen_for=0) == 0


def test_a_closing_event_after_the_interruption_has_the_last_word(ledger: Ledger) -> None:
    events = life("r", 5)
    ledger.record(events[:2])
    ledger.interrupt(unseen_for=0)
    ledger.record(events[2:])
    request = ledger.request("r")
    assert request is not None
    assert request["outcome"] == "succeeded"


def many(ledger: Ledger) -> None:
    """Requests of two keys, two models, three days; one of another project."""
    for number, (key, model, day) in enumerate(itertools.product(("key_1", "key_2"), ("m", "n"), range(3))):
        said = {"key_id": key, "model": model, "admitted_at": day * DAY + 10.5}
        outcome = {"outcome": "failed", "status": 502} if number % 4 == 0 else {}
        ledger.record([closed(f"r{number}", (number, 10 * number, 1), **said, **outcome)])
    ledger.record([closed("theirs", (1000, 1000, 1000), project_id="proj_2")])


def test_every_grouping_adds_up_to_the_same(ledger: Ledger) -> None:
    many(ledger)
    names = ("key", "model", "day")
    groupings = [group for size in range(4) for group in itertools.permutations(names, size)]
    fields = ("requests", "successful_requests", *TOKENS)
    for group in groupings:
        found = rows(ledger, group_by=group)
        assert {name: sum(row[name] for row in found) for name in fields} == {
            "requests": 12,
            "successful_requests": 9,
            "prompt_tokens": 66,
            "completion_tokens": 660,
            "cached_tokens": 12,
        }
        assert len({tuple(row[name] for name in group) for row in found}) == len(found)
        assert all(set(row) == {*group, *fields} for row in found)


def test_the_newest_day_comes_first_and_begins_at_midnight(ledger: Ledger) -> None:
    many(ledger)
    assert [row["day"] for row in rows(ledger, group_by=("day",))] == [2 * DAY, DAY, 0]


def test_the_end_of_a_span_is_exclusive(ledger: Ledger) -> None:
    for number in range(3):
        ledger.record([closed(f"r{number}", (1, 1, 1), admitted_at=float(number))])
    assert rows(ledger, group_by=(), start_time=1.0, end_time=2.0)[0]["requests"] == 1
    assert rows(ledger, group_by=(), start_time=0.0, end_time=2.0)[0]["requests"] == 2


def test_a_project_without_requests_used_nothing(ledger: Ledger) -> None:
    many(ledger)
    assert rows(ledger, project_id="proj_9") == []
    nothing = {"requests": 0, "successful_requests": 0, **dict.fromkeys(TOKENS, 0)}
    assert rows(ledger, project_id="proj_9", group_by=()) == [nothing]


def test_a_group_named_twice_is_summed_once(ledger: Ledger) -> None:
    many(ledger)
    assert rows(ledger, group_by=("key", "key")) == rows(ledger, group_by=("key",))
    assert rows(ledger, group_by=("day", "day")) == rows(ledger, group_by=("day",))


def test_sums_may_be_over_what_thirty_two_bits_hold(ledger: Ledger) -> None:
    for number in range(3):
        ledger.record([closed(f"r{number}", (2**40, 2**41, 2**42))])
    [row] = rows(ledger, group_by=("model",))
    assert [row[name] for name in TOKENS] == [3 * 2**40, 3 * 2**41, 3 * 2**42]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"group_by": ("user",)}, "group_by"),
        ({"group_by": ("",)}, "group_by"),
        ({"start_time": 5.0, "end_time": 5.0}, "end_time"),
        ({"start_time": 6.0, "end_time": 5.0}, "end_time"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(query: dict[str, Any], param: str) -> None:
    said: dict[str, Any] = {"project_id": "proj_1", "start_time": 0.0, "end_time": 1.0} | query
    with pytest.raises(InvalidRequest) as refused:
        UsageQuery(**said)
    assert refused.value.param == param


def test_the_last_request_of_a_model_is_the_one_admitted_last(ledger: Ledger) -> None:
    assert ledger.last_request("m") is None
    ledger.record([closed("a", (1, 1, 1), admitted_at=20.5), closed("b", (1, 1, 1), admitted_at=10.5)])
    assert ledger.last_request("m") == 20.5
    assert ledger.last_request("n") is None
