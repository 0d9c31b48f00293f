"""The ledger: events per request, folded into one row per request and into rollups in the same transaction.

A request is open until its closing event; if its gateway instance has ended, it is closed as interrupted, with the usage of
its last checkpoint. Its price is the one that was valid at its admission.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, func, literal, or_, select

from llmariner.errors import NotFound
from llmariner.platform.database import Database, ReadSession, WriteSession
from llmariner.platform.events import outbox
from llmariner.usage import aggregation
from llmariner.usage.aggregation import INTERRUPTED, OPEN, ROLLUPS, RollupDelta
from llmariner.usage.charge_policies import ChargePolicyList
from llmariner.usage.prices import TRAINING_ROUTE, ListedPrice, PriceList, price_filter
from llmariner.usage.tables import SUM_COLUMNS, ledger_events, ledger_floor, ledger_hours, ledger_requests
from llmariner.usage.tables import prices as listed

__all__ = ["OPEN", "Ledger", "record_event", "retention_watermark"]

_CHUNK = 500
_MAX_CHUNKS = 100
_UNCOUNTED_EVENT_TYPE = "ai.llmariner.usage.uncounted.v1"
# The projects that own the model and an adapter's base model; None: all projects share it.
_MODEL_OWNERS = ("model_project_id", "base_project_id")
_UNCOUNTED_FIELDS = ("organization_id", "project_id", "model", "route", "prompt_tokens", "completion_tokens")
_COLUMNS = tuple(column.name for column in ledger_requests.c)
Row = dict[str, Any]


class Ledger:
    """The ledger of one installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Record a batch of events and return how many were new. Idempotent by (request id, sequence).

        Events of an unknown request from before the retention watermark are ignored: it was counted, and purged.
        """
        if not (batch := _valid_batch(events)):
            return 0
        return self._database.transact(lambda session: _record_batch(session, batch))

    def interrupt(self, *, unseen_for: float) -> int:
        """Close open requests without an event for `unseen_for` seconds as interrupted, and return their number."""
        query = select(ledger_requests).where(ledger_requests.c.outcome == OPEN).limit(_CHUNK).with_for_update()

        def interrupt_some(session: WriteSession) -> int:
            silent = query.where(ledger_requests.c.seen_at <= session.now() - unseen_for)
            return _interrupt_requests(session, _rows(session, silent.order_by(ledger_requests.c.request_id)))

        return self._in_chunks(interrupt_some)

    def purge(self, *, older_than: float) -> int:
        """Delete requests admitted more than `older_than` seconds ago and their events, and return their number.

        Rollups keep their sums. Open requests stay. One call deletes at most `_MAX_CHUNKS` chunks.
        """
        with self._database.write() as session:
            before = int(session.now() - older_than) // aggregation.HOUR * aggregation.HOUR
            if is_raised := before > retention_watermark(session):
                session.upsert(ledger_floor, [{"id": 1, "admitted_at": before}])
        if is_raised:  # once an hour, since it scans the table
            self._drop_empty_sums()
        old = (ledger_requests.c.admitted_at < before) & (ledger_requests.c.outcome != OPEN)
        ids = select(ledger_requests.c.request_id).where(old).limit(_CHUNK)
        return self._in_chunks(
            lambda session: _delete_requests(session, [row.request_id for row in session.rows(ids)]),
            max_chunks=_MAX_CHUNKS,
        )

    def last_request(self, model: str, project_id: str | None = None) -> float | None:
        """When a request for a model of this name was last admitted, of one project or of all; None: never."""
        query = select(func.max(ledger_requests.c.admitted_at)).where(ledger_requests.c.model == model)
        if project_id is not None:
            query = query.where(ledger_requests.c.project_id == project_id)
        with self._database.read() as session:
            value = session.value(query)
        return None if value is None else float(value)

    def idle_since(self, models: Sequence[str], owners: Mapping[str, str] | None = None) -> float | None:
        """When the last request for any of these models ended; 0: there was none; None: one is open.

        `owners`: model → project id, for models that belong to one project: the name means another model elsewhere. Each
        model costs one index lookup.
        """
        table = ledger_requests.c
        conditions = [
            and_(table.model == model, table.project_id == owners[model])
            if owners and model in owners
            else table.model == model
            for model in models
        ]
        open_request = select(literal(1)).where(table.outcome == OPEN, or_(*conditions)).limit(1)
        with self._database.read() as session:
            if session.first(open_request):
                return None
            # Both databases use an index for the maximum of one model only.
            ends = (session.value(select(func.max(table.seen_at)).where(each)) for each in conditions)
            return max((float(end) for end in ends if end is not None), default=0.0)

    def request(self, request_id: str) -> Row | None:
        """The stored row of one request; None: not found."""
        with self._database.read() as session:
            row = session.first(select(ledger_requests).where(ledger_requests.c.request_id == request_id))
        return dict(row._mapping) if row else None

    def rebuild(self, request_id: str) -> Row:
        """The row of a request, folded again from its events alone. Raises NotFound."""
        return self.history(request_id)[-1]

    def history(self, request_id: str) -> list[Row]:
        """The row of a request after each of its events, in order, with `sequence`, `kind` and `at` of the event.

        Raises NotFound if no event of the request is stored.
        """
        query = select(ledger_events).where(ledger_events.c.request_id == request_id)
        with self._database.read() as session:
            events = _rows(session, query.order_by(ledger_events.c.sequence))
            first = next((event for event in events if event["organization_id"] is not None), None)
            if first is None:
                raise NotFound(
                    f"No request with id '{request_id}' is kept. The id is in the answer's header 'x-request-id'.",
                    param="request_id",
                )
            price = PriceList.with_ids(session, [first["price_id"]]).by_id(first["price_id"])
        states = []
        row = aggregation.new_request(first, first["price_id"])
        for event in events:
            row = aggregation.apply_events(row, [event], price)
            states.append({**row, "sequence": event["sequence"], "kind": event["kind"], "at": event["at"]})
        return states

    def _drop_empty_sums(self) -> None:
        """Delete the hourly rows of open requests that have all ended since."""
        sums = ledger_hours.c
        with self._database.write() as session:
            empty = (sums.outcome == OPEN) & (sums.requests == 0) & (sums.start < session.now() - 2 * aggregation.DAY)
            session.run(ledger_hours.delete().where(empty))

    def _in_chunks(self, step: Callable[[WriteSession], int], *, max_chunks: int | None = None) -> int:
        """Run `step` in short transactions until one processes less than a chunk; return the total."""
        total = 0
        for _ in itertools.count() if max_chunks is None else range(max_chunks):
            done = self._database.transact(step)
            total += done
            if done < _CHUNK:
                break
        return total


def record_event(session: WriteSession, event: Mapping[str, Any]) -> None:
    """Record one event within a transaction, as `Ledger.record`."""
    _record_batch(session, _valid_batch([event]))


def retention_watermark(session: ReadSession) -> int:
    """Requests admitted before this time (seconds since 1970) may have been purged."""
    return int(session.value(select(ledger_floor.c.admitted_at)) or 0)


def _valid_batch(events: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The events by request id and sequence. The first of duplicate events wins, as with the table's key."""
    first_events: dict[tuple[str, int], Row] = {}
    for event in map(aggregation.validate_event, events):
        first_events.setdefault(_event_key(event), event)
    return [first_events[key] for key in sorted(first_events)]


def _event_key(event: Mapping[str, Any]) -> tuple[str, int]:
    return event["request_id"], event["sequence"]


def _rows(session: ReadSession, query: Any) -> list[Row]:
    return [dict(row._mapping) for row in session.rows(query)]


def _record_batch(session: WriteSession, batch: Sequence[Row]) -> int:
    """Record events that are sorted by request id, and return how many were new.

    Every step locks in the order of request ids, so that batches with the same requests cannot deadlock.
    """
    events_by_request: dict[str, list[Row]] = {}
    watermark, prices = _watermark_and_prices(session, batch)
    for event in _drop_expired(session, batch, watermark):
        events_by_request.setdefault(event["request_id"], []).append(event)
    created = {request_id: _folded_request(events, prices) for request_id, events in events_by_request.items()}
    new = {row.request_id for row in session.insert_many_if_absent(ledger_requests, list(created.values()))}
    older = select(ledger_requests).where(ledger_requests.c.request_id.in_(created.keys() - new))
    older = older.order_by(ledger_requests.c.request_id).with_for_update()
    existing = {row["request_id"]: row for row in _rows(session, older)} if len(new) < len(created) else {}
    rows = [
        aggregation.event_row(
            event, first=request_id in new and event is events[0], price_id=created[request_id]["price_id"]
        )
        for request_id, events in events_by_request.items()
        if request_id in new or request_id in existing  # else it was purged meanwhile
        for event in events
    ]
    fresh = {tuple(row) for row in session.insert_many_if_absent(ledger_events, rows)}
    deltas, changed = RollupDelta(), []
    for request_id, events in events_by_request.items():
        if request_id in new:
            after = created[request_id]
            deltas.replace(None, after, prices.by_id(after["price_id"]))
        elif before := existing.get(request_id):
            price = prices.by_id(before["price_id"])
            after = aggregation.apply_events(before, (event for event in events if _event_key(event) in fresh), price)
            if after != before:
                deltas.replace(before, after, price)
                changed.append(after)
    _write_requests_and_rollups(session, changed, deltas)
    for event in batch:
        if event.get("uncounted") and _event_key(event) in fresh:
            payload = {"id": event["request_id"], **{name: event[name] for name in _UNCOUNTED_FIELDS}}
            outbox.add(session, _UNCOUNTED_EVENT_TYPE, f"requests/{event['request_id']}", payload)
    return len(fresh)


def _folded_request(events: Sequence[Row], prices: PriceList) -> Row:
    """The row of a request that is new to the ledger, folded from its events."""
    first = events[0]
    project_id, base_project_id = (first[name] for name in _MODEL_OWNERS)
    terms = first["model"], first["admitted_at"], first["base_model"]
    owners = {"project_id": project_id, "base_project_id": base_project_id}
    price = prices.at(*terms, **owners, trains=first["route"] == TRAINING_ROUTE)
    return aggregation.apply_events(
        aggregation.new_request(first, price.id if price is not None else None), events, price
    )


def _distinct(batch: Sequence[Row], *fields: str) -> set[str]:
    return {event[field] for event in batch for field in fields if event[field]}


def _watermark_and_prices(session: WriteSession, batch: Sequence[Row]) -> tuple[int, PriceList]:
    """The retention watermark and the prices of the models of a batch, in one statement.

    The watermark's row is locked until the transaction ends, so that it cannot rise above a request that is being created.
    What is charged where tokens run on devices of a project's own is read where a model or job of a project is used.
    """
    models, project_ids = _distinct(batch, "model", "base_model"), _distinct(batch, *_MODEL_OWNERS)
    priced = ledger_floor.outerjoin(listed, price_filter(models, project_ids))
    query = select(ledger_floor.c.admitted_at, *listed.c).select_from(priced)
    rows = session.rows(query.with_for_update(read=True, of=ledger_floor))
    prices = [ListedPrice(*tuple(row)[1:]) for row in rows if row.id is not None]
    times = [event["admitted_at"] for event in batch]
    policies = ChargePolicyList.of_span(session, min(times), max(times)) if project_ids else None
    return int(rows[0].admitted_at), PriceList(prices, policies)


def _drop_expired(session: WriteSession, batch: Sequence[Row], watermark: int) -> Sequence[Row]:
    """The events without those of purged requests."""
    late = {event["request_id"] for event in batch if event["admitted_at"] < watermark}
    if not late:
        return batch
    existing = select(ledger_requests.c.request_id).where(ledger_requests.c.request_id.in_(late))
    purged = late - {row.request_id for row in session.rows(existing)}
    return [event for event in batch if event["request_id"] not in purged]


def _interrupt_requests(session: WriteSession, requests: Sequence[Row]) -> int:
    prices = PriceList.with_ids(session, {row["price_id"] for row in requests})
    events = [aggregation.interruption_event(row) for row in requests]
    session.insert_many_if_absent(ledger_events, events)
    deltas, changed = RollupDelta(), []
    for before, event in zip(requests, events, strict=True):
        price = prices.by_id(before["price_id"])
        after = aggregation.apply_events(before, [event], price)
        assert after["outcome"] == INTERRUPTED
        deltas.replace(before, after, price)
        changed.append(after)
    _write_requests_and_rollups(session, changed, deltas)
    return len(changed)


def _delete_requests(session: WriteSession, request_ids: Sequence[str]) -> int:
    for table in (ledger_requests, ledger_events):
        session.run(table.delete().where(table.c.request_id.in_(request_ids)))
    return len(request_ids)


def _write_requests_and_rollups(session: WriteSession, changed: Sequence[Row], deltas: RollupDelta) -> None:
    session.upsert(ledger_requests, [{name: row[name] for name in _COLUMNS} for row in changed])
    for rollup in reversed(ROLLUPS):
        session.upsert(rollup.table, deltas.rows(rollup), accumulate=SUM_COLUMNS)
