"""What each request used, told to the ledger in batches: admitted, every second a checkpoint, closed.

Nothing of this touches a database on the way of a request: events gather here and leave every half second, whether or not
the ones before are recorded yet. What a crash can lose is what was not given away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from llmariner.errors import InvalidRequest, PlatformError
from llmariner.gateway.control_plane.port import ControlPlane, Key
from llmariner.gateway.metering.metrics import Metrics
from llmariner.gateway.metering.token_counts import NO_BOUNDS, TokenBounds, parse_usage

__all__ = ["Meter", "MeteredRequest"]

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 0.5
_CHECKPOINT_SECONDS = 1.0
_KEEPALIVE_SECONDS = 15.0
_BATCH_SIZE = 500
# Batches under way at once: as many as a slow answer takes flushes.
_MAX_CONCURRENT_BATCHES = 8
# A function that crashes again and again is started again after at most five minutes.
_FLUSH_TIMEOUT_SECONDS = 300.0
_MAX_QUEUED_EVENTS = 200_000
_LOGGED_BYTES = 200
# The closing event's place in its request's sequence: after any checkpoint.
_CLOSING_SEQUENCE = 2**31 - 1


class MeteredRequest:
    """A request under way. `usage`: bytes of the last usage object seen, looked into only when somebody asks.

    `waited_seconds`: from its beginning to its place at an engine; of these `wake_seconds` while the model was not ready and
    `queued_seconds` behind others. `adapter`: what its engine puts on top of `base_model`. `model_project_id` and
    `base_project_id`: whose own the two models are; None: all projects share them.
    `told`: the ledger knows of it. One that ends before it is told leaves as its closing event alone, which says when it
    was admitted too. `bounds`: what its engine is believed; `uncounted`: it was charged by them;
    `untold`: its caller left, and its engine does not tell what it used.
    """

    __slots__ = (
        "_base",
        "_reported",
        "_reported_at",
        "adapter",
        "admitted_at",
        "base_model",
        "base_project_id",
        "bounds",
        "first_token_seconds",
        "model_project_id",
        "queued_seconds",
        "recorded",
        "sequence",
        "uncounted",
        "usage",
        "usage_unavailable",
        "waited_seconds",
        "wake_seconds",
    )

    def __init__(self, request_id: str, key: Key, model: str, route: str, bounds: TokenBounds = NO_BOUNDS) -> None:
        self.admitted_at = time.time()
        self.usage = b""
        self.bounds = bounds
        self.recorded = self.uncounted = self.usage_unavailable = False
        self.sequence = 0
        self.adapter: str | None = None
        self.base_model: str | None = None
        self.model_project_id: str | None = None
        self.base_project_id: str | None = None
        self.waited_seconds: float | None = None
        self.queued_seconds = 0.0
        self.wake_seconds = 0.0
        self.first_token_seconds: float | None = None
        self._reported = parse_usage(b"") or {}
        self._reported_at = self.admitted_at
        self._base = {
            "request_id": request_id,
            "organization_id": key.organization_id,
            "project_id": key.project_id,
            "user_id": key.user_id,
            "key_id": key.id,
            "model": model,
            "route": route,
            "admitted_at": self.admitted_at,
        }

    def add_wait(self, began: float, ready_at: float) -> None:
        """It waited from `began` until now for an engine that is ready since `ready_at`, all on the monotonic clock."""
        now = time.monotonic()
        awake = min(now, max(began, ready_at))
        self.wake_seconds += awake - began
        self.queued_seconds += now - awake

    def event(self, kind: str, *, outcome: str = "open", status: int = 0) -> dict[str, Any]:
        """The ledger event for now."""
        self._reported, self._reported_at = self._usage(closing=kind == "closed", outcome=outcome), time.time()
        sequence = _CLOSING_SEQUENCE if kind == "closed" else self.sequence
        self.sequence += 1
        return {
            **self._base,
            **self._reported,
            "sequence": sequence,
            "kind": kind,
            "at": self._reported_at,
            "outcome": outcome,
            "status": status,
            "adapter": self.adapter,
            "base_model": self.base_model,
            "model_project_id": self.model_project_id,
            "base_project_id": self.base_project_id,
            "waited_seconds": self.waited_seconds,
            "queued_seconds": self.queued_seconds,
            "wake_seconds": self.wake_seconds,
            "first_token_seconds": self.first_token_seconds,
            "total_seconds": max(0.0, self._reported_at - self.admitted_at),
            "uncounted": self.uncounted,
        }

    def needs_checkpoint(self, now: float) -> bool:
        """Whether a checkpoint would say something new, or a sign of life is due."""
        silent = now - self._reported_at
        if not 0 <= silent < _KEEPALIVE_SECONDS:  # of a clock that was set back, nobody knows how long it was
            return True
        return silent >= _CHECKPOINT_SECONDS and self._usage() != self._reported

    def _usage(self, *, closing: bool = False, outcome: str = "open") -> dict[str, int]:
        """What was used so far, as far as the engine is believed; never less than before.

        At the end counts that can't be true are replaced by what the bounds charge, and so is the silence of an engine
        that answered, or would have.
        """
        found = self.bounds.plausible(parse_usage(self.usage))
        if closing and (
            found is None or ((self.usage_unavailable or outcome == "succeeded") and not found["prompt_tokens"])
        ):
            self.uncounted = found is None or self.bounds.charged_prompt > 0
            found = self.bounds.charge
        if found is None:
            return self._reported
        return {name: max(count, self._reported[name]) for name, count in found.items()}


class Meter:
    """Gathers ledger events and gives them to the control port."""

    def __init__(self, control_plane: ControlPlane, metrics: Metrics) -> None:
        self._control_plane = control_plane
        self._metrics = metrics
        self._open: set[MeteredRequest] = set()
        self._events: list[dict[str, Any]] = []
        self._sending: set[asyncio.Task[bool]] = set()

    def open(
        self, request_id: str, key: Key, model: str, route: str, bounds: TokenBounds = NO_BOUNDS
    ) -> MeteredRequest:
        """Begin to count a request."""
        metered = MeteredRequest(request_id, key, model, route, bounds)
        self._open.add(metered)
        return metered

    def close(self, metered: MeteredRequest, outcome: str, status: int) -> dict[str, Any]:
        """End the count; returns the closing event."""
        self._open.discard(metered)
        event = metered.event("closed", outcome=outcome, status=status)
        self._events.append(event)
        if metered.uncounted:
            _log.warning(
                "request %s of %s is charged by its bounds: its engine told no usage that can be true: %r",
                event["request_id"],
                event["model"],
                metered.usage[:_LOGGED_BYTES],
            )
        return event

    async def run(self) -> None:
        """Give events away until cancelled, without waiting for answers: they come when the events are in the database."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            now = time.time()
            for metered in self._open:
                try:
                    self._checkpoint(metered, now)
                except Exception:  # whatever is wrong with one request, the others are counted
                    _log.exception("a request under way could not be counted")
            self._send_batches()
            self._bound_events()

    def _checkpoint(self, metered: MeteredRequest, now: float) -> None:
        if not metered.recorded:
            metered.recorded = True
            self._events.append(metered.event("admitted"))
        elif metered.needs_checkpoint(now):
            self._events.append(metered.event("checkpoint"))

    async def flush(self) -> None:
        """Flush until nothing is left: at a process's end, who keeps the ledger may be away for a while, too."""
        limit = time.monotonic() + _FLUSH_TIMEOUT_SECONDS
        while self._events or self._sending:
            self._send_batches()
            if not all(await asyncio.gather(*self._sending)):
                if time.monotonic() > limit:
                    break
                await asyncio.sleep(_FLUSH_SECONDS)
        if self._events:
            _log.error(
                "%d events never reached the ledger: nobody took them for %.0f s",
                len(self._events),
                _FLUSH_TIMEOUT_SECONDS,
            )

    def _send_batches(self) -> None:
        """Send what has gathered, in batches."""
        while self._events and len(self._sending) < _MAX_CONCURRENT_BATCHES:
            batch, self._events = self._events[:_BATCH_SIZE], self._events[_BATCH_SIZE:]
            task = asyncio.create_task(self._send_batch(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_batch(self, batch: list[dict[str, Any]]) -> bool:
        """Give a batch away; what could not be is kept and tried again, up to a bound. Whether that is of no need."""
        try:
            await self._control_plane.record_events(batch)
        except (InvalidRequest, TypeError, ValueError, OverflowError) as error:
            return await self._isolate_rejected(batch, error)
        except Exception as error:  # whatever it was: the events are kept
            if not isinstance(error, PlatformError):
                _log.exception("the ledger could not be written")
            self._events = [*batch, *self._events]
            self._bound_events()
            return False
        return True

    def _bound_events(self) -> None:
        """Keep no more events than memory is meant for: first go those that a later one of the same request repeats."""
        if len(self._events) <= _MAX_QUEUED_EVENTS:
            return
        closing = [event for event in self._events if event["kind"] == "closed"]
        lost = max(0, len(closing) - _MAX_QUEUED_EVENTS)
        self._events = closing[lost:]
        if lost:
            self._metrics.lost_events += lost
            _log.error("the ledger takes no events: what the oldest %d requests used is lost", lost)

    async def _isolate_rejected(self, batch: list[dict[str, Any]], error: Exception) -> bool:
        """Find the event that the ledger will never take, by halves: the others are others' requests.

        Kept, it would hold up every event after it for ever.
        """
        if len(batch) > 1:
            middle = len(batch) // 2
            given = [await self._send_batch(half) for half in (batch[:middle], batch[middle:])]
            return all(given)
        self._metrics.rejected_events += 1
        _log.error("the ledger refused an event, which is left out: %s: %s", error, batch[0])
        return True
