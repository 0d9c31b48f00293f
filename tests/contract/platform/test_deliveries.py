"""Events are written with their data, delivered to each subscriber in order, retried, and stored as dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.errors import Conflict, InvalidRequest, NotFound, RateLimited
from llmariner.platform.database import Database
from llmariner.platform.events import outbox, tables
from llmariner.platform.events.cloudevents import Event
from llmariner.platform.events.deliveries import MAX_ATTEMPTS, Deliveries, Delivery, Subscription, backoff

AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]
MADE, GONE = "ai.llmariner.thing.made.v1", "ai.llmariner.thing.gone.v1"


@pytest.fixture
def store(database: Database) -> Deliveries:
    """Two consumers of one type, one of another."""
    pairs = (("a", MADE), ("b", MADE), ("c", GONE))
    return Deliveries(database, [Subscription(consumer, type_) for consumer, type_ in pairs])


def emit(database: Database, *subjects: str, type_: str = MADE, project: str | None = None) -> None:
    """One event per subject, in this order."""
    for number, subject in enumerate(subjects):
        with database.write() as session:
            outbox.add(session, type_, subject, {"number": number, "project_id": project})


def due(store: Deliveries, consumer: str) -> list[str]:
    return [delivery.event.subject for delivery in store.due() if delivery.consumer == consumer]


def one(store: Deliveries, consumer: str = "a") -> Delivery:
    """The first due delivery of a consumer."""
    return next(delivery for delivery in store.due() if delivery.consumer == consumer)


def make_due(database: Database) -> None:
    """Make pending retries due."""
    with database.write() as session:
        session.run(update(tables.deliveries).values(due_at=0.0))


def state(store: Deliveries, consumer: str = "a") -> tuple[str, int, str | None]:
    found = next(d for d in store.page("proj_1", None, after=None, limit=100) if d.consumer == consumer)
    return found.state, found.attempts, found.last_error


def test_a_clock_set_back_delays_no_retry(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    store.mark_failed(one(store), "503: no", final=False)
    assert due(store, "a") == []
    with database.write() as session:
        session.run(update(tables.deliveries).values(due_at=time.time() + 3600))
    assert due(store, "a") == ["x"]


def test_a_slow_consumer_delays_no_other(database: Database, store: Deliveries) -> None:
    emit(database, *(f"slow{number}" for number in range(80)))
    emit(database, "later", type_=GONE)
    store.fan_out()
    assert due(store, "c") == ["later"]
    assert due(store, "a") == due(store, "b") == [f"slow{number}" for number in range(16)]
    assert [delivery.sequence for delivery in store.due()] == sorted(delivery.sequence for delivery in store.due())


def test_an_event_of_a_failed_transaction_does_not_exist(database: Database, store: Deliveries) -> None:
    def emit_and_fail() -> None:
        with database.write() as session:
            outbox.add(session, MADE, "x", {})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        emit_and_fail()
    assert store.fan_out() == 0


def test_an_event_has_its_data(database: Database, store: Deliveries) -> None:
    before = time.time()
    with database.write() as session:
        outbox.add(session, MADE, "things/1", {"project_id": "proj_1", "name": "ä", "list": [1, None]})
    store.fan_out()
    event = one(store).event
    assert (event.type, event.subject) == (MADE, "things/1")
    assert event.data == {"project_id": "proj_1", "name": "ä", "list": [1, None]}
    assert before <= event.time <= time.time()
    assert event.id.startswith("evt_")


def test_each_subscriber_of_a_type_gets_its_events_once(database: Database, store: Deliveries) -> None:
    emit(database, "x", "y")
    emit(database, "z", type_=GONE)
    emit(database, "w", type_="ai.llmariner.thing.ignored.v1")
    assert store.fan_out() == 4
    assert store.fan_out() == 0
    assert [due(store, consumer) for consumer in "abc"] == [["x", "y"], ["x", "y"], ["z"]]


def test_a_fan_out_is_bounded(database: Database, store: Deliveries) -> None:
    emit(database, "x", "y", "z")
    assert [store.fan_out(limit=2), store.fan_out(limit=2), store.fan_out(limit=2)] == [2, 1, 0]


def test_concurrent_fan_outs_create_one_delivery_each(
    database: Database, store: Deliveries, run_concurrently: AtOnce
) -> None:
    emit(database, *"uvwxyz")
    results = run_concurrently([store.fan_out] * 3)
    assert all(isinstance(result, int) for result in results), results
    assert due(store, "a") == list("uvwxyz")


def test_events_of_one_subject_are_delivered_in_order(database: Database, store: Deliveries) -> None:
    emit(database, "x", "x", "y")
    store.fan_out()
    assert due(store, "a") == ["x", "y"]
    store.mark_delivered(one(store))
    assert due(store, "a") == ["x", "y"]
    assert [delivery.event.data["number"] for delivery in store.due() if delivery.consumer == "a"] == [1, 2]
    assert due(store, "b") == ["x", "y"]


def test_a_pending_retry_blocks_only_its_subject(database: Database, store: Deliveries) -> None:
    emit(database, "x", "x", "y")
    store.fan_out()
    store.mark_failed(one(store), "500", final=False)
    assert due(store, "a") == ["y"]
    make_due(database)
    assert due(store, "a") == ["x", "y"]


def test_a_dead_delivery_blocks_nothing(database: Database, store: Deliveries) -> None:
    emit(database, "x", "x")
    store.fan_out()
    store.mark_failed(one(store), "400", final=True)
    assert [delivery.event.data["number"] for delivery in store.due() if delivery.consumer == "a"] == [1]


def test_the_retry_delay_doubles_from_half_a_second(database: Database) -> None:
    assert [backoff(n) for n in range(1, MAX_ATTEMPTS)] == [0.5, 1, 2, 4, 8, 16, 32]


def test_a_failed_delivery_is_due_after_its_delay(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    before = time.time()
    store.mark_failed(one(store), "500: oh", final=False)
    assert state(store) == ("pending", 1, "500: oh")
    with database.read() as session:
        at = session.value(select(tables.deliveries.c.due_at).where(tables.deliveries.c.consumer == "a"))
    assert before + 0.5 <= at <= time.time() + 0.5


def test_a_delivery_is_dead_after_its_last_attempt(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    for attempt in range(1, MAX_ATTEMPTS + 1):
        store.mark_failed(one(store), f"no {attempt}", final=False)
        assert state(store) == ("pending" if attempt < MAX_ATTEMPTS else "dead", attempt, f"no {attempt}")
        make_due(database)
    assert due(store, "a") == []
    assert due(store, "b") == ["x"]


def test_a_permanent_rejection_is_dead_at_once(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    store.mark_failed(one(store), "400: no", final=True)
    assert state(store) == ("dead", 1, "400: no")


def test_a_delivery_that_succeeds_clears_its_error(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    store.mark_failed(one(store), "500", final=False)
    make_due(database)
    store.mark_delivered(one(store))
    assert state(store) == ("delivered", 2, None)


def test_a_replay_makes_dead_deliveries_due_again(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    first, second = one(store, "a"), one(store, "b")
    store.mark_failed(first, "400", final=True)
    store.mark_delivered(second)
    assert store.replay("proj_1", first.event.id) == 1
    assert due(store, "a") == ["x"]
    assert due(store, "b") == []
    assert one(store).attempts == 0


def test_a_replay_without_dead_deliveries_fails(database: Database, store: Deliveries) -> None:
    emit(database, "x")
    store.fan_out()
    with pytest.raises(Conflict):
        store.replay("proj_1", one(store).event.id)
    with pytest.raises(NotFound):
        store.replay("proj_1", "evt_nobody")


def test_another_projects_event_is_not_found(database: Database, store: Deliveries) -> None:
    emit(database, "mine", project="proj_1")
    emit(database, "theirs", project="proj_2")
    emit(database, "everybodys")
    store.fan_out()
    theirs = next(d for d in store.due() if d.event.subject == "theirs")
    store.mark_failed(theirs, "400", final=True)
    seen = {d.event.subject for d in store.page("proj_1", None, after=None, limit=100)}
    assert seen == {"mine", "everybodys"}
    assert store.page("proj_1", "dead", after=None, limit=100) == []
    with pytest.raises(NotFound):
        store.replay("proj_1", theirs.event.id)
    assert store.replay("proj_2", theirs.event.id) == 1


def test_a_page_is_newest_first_and_of_one_state(database: Database, store: Deliveries) -> None:
    emit(database, "x", "y", "z", type_=GONE)
    store.fan_out()
    store.mark_failed(one(store, "c"), "400", final=True)
    pages = {name: store.page("proj_1", name, after=None, limit=10) for name in ("pending", "dead", "delivered", None)}
    subjects = {name: [d.event.subject for d in found] for name, found in pages.items()}
    assert subjects == {"pending": ["z", "y"], "dead": ["x"], "delivered": [], None: ["z", "y", "x"]}


def test_pages_are_consecutive_for_types_with_one_consumer(database: Database, store: Deliveries) -> None:
    emit(database, *"uvwxyz", type_=GONE)
    store.fan_out()
    met: list[str] = []
    after: str | None = None
    while part := store.page("proj_1", None, after=after, limit=4):
        met += [delivery.event.subject for delivery in part]
        after = part[-1].cursor
    assert met == list("zyxwvu")


def test_pages_are_consecutive_for_types_with_two_consumers(database: Database, store: Deliveries) -> None:
    emit(database, "x", "y")
    store.fan_out()
    met: list[tuple[str, str]] = []
    after: str | None = None
    while part := store.page("proj_1", None, after=after, limit=1):
        met += [(delivery.event.subject, delivery.consumer) for delivery in part]
        after = part[-1].cursor
    assert met == [("y", "a"), ("y", "b"), ("x", "a"), ("x", "b")]


@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "\N{SUPERSCRIPT TWO}", ":", "9" * 30, "9" * 5000, " 1", "1\n"])
def test_an_invalid_cursor_is_rejected(store: Deliveries, after: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.page("proj_1", None, after=after, limit=1)
    assert refused.value.param == "after"


def test_a_consumer_processes_an_event_once(database: Database) -> None:
    def process(consumer: str, event_id: str) -> bool:
        with database.write() as session:
            return outbox.mark_consumed(session, consumer, event_id)

    assert [process("a", "e1"), process("a", "e1"), process("b", "e1"), process("a", "e2")] == [True, False, True, True]


def test_an_unfinished_event_is_processed_again(database: Database) -> None:
    def begin_and_fail() -> None:
        with database.write() as session:
            assert outbox.mark_consumed(session, "a", "e1")
            raise RuntimeError

    for _ in range(2):
        with pytest.raises(RuntimeError):
            begin_and_fail()


def test_one_of_concurrent_consumers_processes_an_event(database: Database, run_concurrently: AtOnce) -> None:
    def process() -> bool:
        with database.write() as session:
            return outbox.mark_consumed(session, "a", "e1")

    assert sorted(run_concurrently([process] * 4)) == [False, False, False, True]


def test_an_event_without_consumers_is_listed(database: Database, store: Deliveries) -> None:
    emit(database, "alone", type_="nobody.takes.this.v1")
    assert [(d.event.subject, d.consumer, d.state) for d in store.page("proj_1", None, after=None, limit=9)] == [
        ("alone", "", "pending")
    ]
    store.fan_out()
    assert [d.state for d in store.page("proj_1", "delivered", after=None, limit=9)] == ["delivered"]


def test_an_event_that_the_broker_gave_up_is_stored_once(database: Database, store: Deliveries) -> None:
    emit(database, "x", project="proj_1")
    event = one_event(store)
    for reason in ("503: first", "503: again"):
        store.record_dead_letter(event, "a", reason)
    store.record_dead_letter(event, "b", "400: never")
    dead = store.page("proj_1", "dead", after=None, limit=10)
    assert [(d.consumer, d.attempts, d.last_error) for d in dead] == [("a", 8, "503: again"), ("b", 8, "400: never")]
    assert store.page("proj_2", "dead", after=None, limit=10) == []


@pytest.mark.parametrize("reason", ["500: a\0b", "500: a\ud800b"], ids=["NUL", "surrogate"])
def test_a_reason_is_stored_for_any_bytes(reason: str, database: Database, store: Deliveries) -> None:
    emit(database, "a")
    store.fan_out()
    store.mark_failed(one(store), reason, final=True)
    store.record_dead_letter(one(store, "b").event, "b", reason)
    dead = store.page("proj_1", "dead", after=None, limit=9)
    assert [(d.consumer, (d.last_error or "")[:6]) for d in dead] == [("a", "500: a"), ("b", "500: a")]


@pytest.mark.parametrize("audience", ["operators", None], ids=["this release", "the release before"])
@pytest.mark.parametrize("data", [{}, {"project_id": "proj_1"}, {"name": "proj-2-model"}])
def test_an_event_of_kubernetes_is_stored_for_operators(
    database: Database, store: Deliveries, data: dict[str, Any], audience: str | None
) -> None:
    store.record_dead_letter(Event("1", "dev.knative.apiserver.ref.add", "/apis/x", 1.5, data), "a", "503: no")
    with database.write() as session:
        session.run(update(tables.events).values(audience=audience))
    for organization_id in (None, "org_1"):
        assert store.page("proj_1", None, organization_id=organization_id, after=None, limit=10) == []
        with pytest.raises(NotFound):
            store.replay("proj_1", "1", organization_id=organization_id)
    (dead,) = store.page("proj_1", "dead", operator=True, after=None, limit=10)
    assert (dead.event.type, dead.event.data) == ("dev.knative.apiserver.ref.add", data)
    assert store.due() == []
    assert store.replay("proj_1", "1", operator=True) == 1


def test_an_event_of_kubernetes_is_stored_once_for_concurrent_consumers(
    store: Deliveries, run_concurrently: AtOnce
) -> None:
    reported = [Event(str(number), "dev.knative.apiserver.ref.add", "/apis/x", 1.5, {}) for number in range(5)]
    for event in reported:
        assert (
            run_concurrently([partial(store.record_dead_letter, event, f"c{at}", "503: no") for at in range(3)])
            == [None] * 3
        )
    assert len(store.page("proj_1", "dead", operator=True, after=None, limit=100)) == 15


def test_dead_letters_of_kubernetes_events_are_bounded(
    database: Database, store: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.platform.events.deliveries._MAX_KUBERNETES_DEAD_LETTERS", 3)
    for number in range(3):
        store.record_dead_letter(
            Event(str(number), "dev.knative.apiserver.ref.add", "/apis/x", 1.5, {}), "a", "503: no"
        )
    with pytest.raises(RateLimited):
        store.record_dead_letter(Event("4", "dev.knative.apiserver.ref.add", "/apis/x", 1.5, {}), "a", "503: no")
    store.record_dead_letter(Event("1", "dev.knative.apiserver.ref.add", "/apis/x", 1.5, {}), "a", "503: again")
    for type_ in (MADE, "dev.knative.sources.ping", "x"):
        with pytest.raises(InvalidRequest, match="was written by this platform"):
            store.record_dead_letter(Event("5", type_, "/apis/x", 1.5, {}), "a", "503: no")
    assert len(store.page("proj_1", None, operator=True, after=None, limit=100)) == 3


def one_event(store: Deliveries) -> Event:
    (shown,) = store.page("proj_1", None, after=None, limit=1)
    return shown.event
