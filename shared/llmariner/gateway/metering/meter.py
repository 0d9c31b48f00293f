"""Usage metering: ledger events of each request (admitted, a checkpoint per second, closed), sent in batches.

Requests do not wait for the ledger: events are queued in memory and sent every half second, without waiting for earlier
batches. A crash loses the events that were not sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

from llmariner.errors import InvalidRequest, PlatformError
from llmariner.gateway.control_plane.port import ControlPlane, Key
from llmariner.gateway.metering.metrics import Metrics
from llmariner.gateway.metering.token_counts import NO_BOUNDS, NO_USAGE, TokenBounds, TokenUsage, parse_usage

__all__ = ["Meter", "MeteredRequest"]

_log = logging.getLogger(__name__)
_FLUSH_SECONDS = 0.5
_CHECKPOINT_SECONDS: Final = 1.0
_KEEPALIVE_SECONDS: Final = 15.0
_BATCH_SIZE = 500
# Concurrent batches: a slow response may take as many flush intervals.
_MAX_CONCURRENT_BATCHES = 8
# Kubernetes restarts a crashing container after at most five minutes.
_FLUSH_TIMEOUT_SECONDS = 300.0
_MAX_QUEUED_EVENTS = 200_000
_LOGGED_BYTES = 200
# The sequence number of a closing event: after any checkpoint.
_CLOSING_SEQUENCE: Final = 2_147_483_647


class MeteredRequest:
    """A request in flight. `usage`: bytes of the last usage object in its response; they are parsed only when needed.

    `waited_seconds`: from the start of the request to its slot; of these, `wake_seconds` until the model was ready and
    `queued_seconds` behind other requests. `adapter`: loaded on top of `base_model`. `model_project_id` and
    `base_project_id`: the projects that own the two models; None: shared. `recorded`: its admission was queued for the
    ledger; the closing event of a shorter request contains the time of admission. `bounds`: the highest plausible
    usage; `uncounted`: the request is charged by them; `usage_unavailable`: the client disconnected, and the engine
    reports no usage.
    """

    __slots__ = (
        "_key",
        "_model",
        "_reported",
        "_reported_at",
        "_request_id",
        "_route",
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
        self.first_token_seconds: float | None = None
        self.queued_seconds = self.wake_seconds = 0.0
        self._reported = NO_USAGE
        self._reported_at = self.admitted_at
        self._request_id, self._key, self._model, self._route = request_id, key, model, route

    def add_wait(self, began: float, ready_at: float) -> None:
        """Add a wait from `began` until now for a model that became ready at `ready_at`; all monotonic seconds."""
        now = time.monotonic()
        awake = min(now, max(began, ready_at))
        self.wake_seconds += awake - began
        self.queued_seconds += now - awake

    def next_event(self, kind: str, *, outcome: str = "open", status: int = 0) -> dict[str, Any]:
        """Build the next ledger event."""
        self._reported, self._reported_at = self._usage(closing=kind == "closed", outcome=outcome), time.time()
        sequence = _CLOSING_SEQUENCE if kind == "closed" else self.sequence
        self.sequence += 1
        key, reported = self._key, self._reported
        return {
            "request_id": self._request_id,
            "organization_id": key.organization_id,
            "project_id": key.project_id,
            "user_id": key.user_id,
            "key_id": key.id,
            "model": self._model,
            "route": self._route,
            "admitted_at": self.admitted_at,
            "prompt_tokens": reported.prompt_tokens,
            "completion_tokens": reported.completion_tokens,
            "cached_tokens": reported.cached_tokens,
            "reasoning_tokens": reported.reasoning_tokens,
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
        """Whether usage changed since the last event, or a keep-alive is due. `now`: Unix seconds."""
        silent = now - self._reported_at
        if not 0 <= silent < _KEEPALIVE_SECONDS:  # the clock was set back: the interval is unknown
            return True
        return silent >= _CHECKPOINT_SECONDS and self._usage().counts != self._reported.counts

    def _usage(self, *, closing: bool = False, outcome: str = "open") -> TokenUsage:
        """The plausible usage so far; it never decreases.

        The closing event replaces implausible counts by the charge of the bounds, and missing counts, too, where the
        request succeeded or its usage is unavailable.
        """
        found = self.bounds.plausible(parse_usage(self.usage))
        if closing and (
            found is None or ((self.usage_unavailable or outcome == "succeeded") and not found.prompt_tokens)
        ):
            self.uncounted = found is None or self.bounds.charged_prompt > 0
            found = self.bounds.charge
        if found is None:
            return self._reported
        return found if self._reported is NO_USAGE else found.at_least(self._reported)


class Meter:
    """Queues ledger events and sends them to the control plane."""

    def __init__(self, control_plane: ControlPlane, metrics: Metrics) -> None:
        self._control_plane = control_plane
        self._metrics = metrics
        self._open: set[MeteredRequest] = set()
        self._events: list[dict[str, Any]] = []
        self._sending: set[asyncio.Task[bool]] = set()

    def open(
        self, request_id: str, key: Key, model: str, route: str, bounds: TokenBounds = NO_BOUNDS
    ) -> MeteredRequest:
        """Start to meter a request."""
        metered = MeteredRequest(request_id, key, model, route, bounds)
        self._open.add(metered)
        return metered

    def close(self, metered: MeteredRequest, outcome: str, status: int) -> dict[str, Any]:
        """End the metering of a request; returns the closing event."""
        self._open.discard(metered)
        event = metered.next_event("closed", outcome=outcome, status=status)
        self._events.append(event)
        if metered.uncounted:
            _log.warning(
                "request %s of %s is charged by its bounds: its engine reported no plausible usage: %r",
                event["request_id"],
                event["model"],
                metered.usage[:_LOGGED_BYTES],
            )
        return event

    async def run(self) -> None:
        """Send events until canceled, without waiting for responses, which confirm that the database has the events."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            now = time.time()
            for metered in self._open:
                try:
                    self._checkpoint(metered, now)
                except Exception:  # an error of one request must not affect the others
                    _log.exception("a request under way could not be counted")
            self._send_batches()
            self._bound_events()

    def _checkpoint(self, metered: MeteredRequest, now: float) -> None:
        if not metered.recorded:
            metered.recorded = True
            self._events.append(metered.next_event("admitted"))
        elif metered.needs_checkpoint(now):
            self._events.append(metered.next_event("checkpoint"))

    async def flush(self) -> None:
        """Send until no event is left, for at most _FLUSH_TIMEOUT_SECONDS: the control plane may be restarting, too."""
        limit = time.monotonic() + _FLUSH_TIMEOUT_SECONDS
        while self._events or self._sending:
            self._send_batches()
            if not all(await asyncio.gather(*self._sending)):
                if time.monotonic() > limit:
                    break
                await asyncio.sleep(_FLUSH_SECONDS)
        if self._events:
            _log.error(
                "%d events never reached the ledger, which accepted none for %.0f s",
                len(self._events),
                _FLUSH_TIMEOUT_SECONDS,
            )

    def _send_batches(self) -> None:
        """Send the queued events in batches."""
        while self._events and len(self._sending) < _MAX_CONCURRENT_BATCHES:
            batch, self._events = self._events[:_BATCH_SIZE], self._events[_BATCH_SIZE:]
            task = asyncio.create_task(self._send_batch(batch))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_batch(self, batch: list[dict[str, Any]]) -> bool:
        """Send a batch. Failed batches are queued again, up to a bound. Returns whether none was."""
        rejection: Exception | None = None
        try:
            await self._control_plane.record_events(batch)
        except (InvalidRequest, TypeError, ValueError, OverflowError) as refused:
            rejection = refused.with_traceback(None)
        except Exception as error:  # the events are queued again after any error
            if not isinstance(error, PlatformError):
                _log.exception("the ledger could not be written")
            self._events = [*batch, *self._events]
            self._bound_events()
            return False
        return rejection is None or await self._isolate_rejected(batch, rejection)

    def _bound_events(self) -> None:
        """Bound the queue: drop all but closing events, which repeat the earlier ones, then the oldest of these."""
        if len(self._events) <= _MAX_QUEUED_EVENTS:
            return
        closing = [event for event in self._events if event["kind"] == "closed"]
        lost = max(0, len(closing) - _MAX_QUEUED_EVENTS)
        self._events = closing[lost:]
        if lost:
            self._metrics.lost_events += lost
            _log.error("the ledger takes no events: what the oldest %d requests used is lost", lost)

    async def _isolate_rejected(self, batch: list[dict[str, Any]], error: Exception) -> bool:
        """Find the event that the ledger rejects, by bisection, and drop it: it would block all later events forever."""
        if len(batch) > 1:
            middle = len(batch) // 2
            given = [await self._send_batch(half) for half in (batch[:middle], batch[middle:])]
            return all(given)
        self._metrics.rejected_events += 1
        _log.error("the ledger refused an event, which is left out: %s: %s", error, batch[0])
        return True
