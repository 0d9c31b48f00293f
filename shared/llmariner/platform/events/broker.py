"""Publishes events of the outbox to a Knative Broker: after each commit, and the rest by the sweep.

Delivery is at least once: an event without a response is sent again. One process at a time publishes. Events of one subject
keep their order: a rejected event blocks later events of its subject, and of no other, until it is accepted or becomes a
dead letter. When the Broker does not respond, publishing pauses; the event without a response then waits for its next
attempt like a rejected one, so that it does not block other subjects.
"""

from __future__ import annotations

import logging
import secrets
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from llmariner.platform.bounded_http import bounded_connection
from llmariner.platform.database import Database
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event, to_http
from llmariner.platform.events.publish_queue import PublishQueue, QueuedEvent
from llmariner.settings import BrokerSettings

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)
_SEND_SECONDS = 10.0
# Renewed before each event; connecting and sending take less.
_LEASE_SECONDS = 30.0
_PAUSE_SECONDS = 15.0
# Too many or too early requests, or a Broker that is not set up yet; other 4xx are final.
_RETRYABLE_STATUSES = frozenset({401, 403, 404, 408, 409, 425, 429})
# So many consecutive rejections have a cause other than the events.
_MAX_CONSECUTIVE_REJECTIONS = 5


class _Rejected(Exception):
    """The Broker rejected the event. `final`: a retry would not help."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


class _BrokerUnavailable(Exception):
    """The Broker does not respond."""


class Publisher:
    """Publishes to the ingress of one Broker. Each instance has a lease holder of its own."""

    def __init__(self, database: Database, settings: BrokerSettings) -> None:
        self._settings = settings
        self._queue = PublishQueue(database)
        self._lease = WorkLease(database, "publish", f"publisher_{secrets.token_hex(8)}")

    def publish(self) -> int:
        """Publish the pending events; returns how many the Broker accepted. Does not raise when the Broker is unavailable.

        Where another process holds the lease, it publishes this process's events, too. A replayed event reaches every
        consumer of its type: a Broker can't deliver to a single one.
        """
        accepted = 0
        requests = self._lease.acquire(_LEASE_SECONDS)
        while requests is not None:
            sent, keep_publishing = self._publish_pending()
            accepted += sent
            if not keep_publishing:
                self._lease.pause(_PAUSE_SECONDS)
                return accepted
            requests = self._lease.release(requests, _LEASE_SECONDS)
        return accepted

    def _publish_pending(self) -> tuple[int, bool]:
        """The number of accepted events, and whether to keep publishing."""
        accepted = consecutive_rejections = 0
        while batch := self._queue.next_batch():
            blocked_subjects: set[str] = set()
            for each in batch:
                if each.event.subject in blocked_subjects:
                    continue
                if not self._lease.renew(_LEASE_SECONDS):
                    return accepted, True
                try:
                    if self._try_send(each):
                        accepted, consecutive_rejections = accepted + 1, 0
                        continue
                except _BrokerUnavailable as error:
                    self._queue.mark_unanswered(each, f"no answer: {error}")
                    count, seconds = self._queue.backlog()
                    _log.warning(
                        "the Broker does not respond (%s): %d events wait, the oldest for %d s", error, count, seconds
                    )
                    return accepted, False
                blocked_subjects.add(each.event.subject)
                consecutive_rejections += 1
                if consecutive_rejections >= _MAX_CONSECUTIVE_REJECTIONS:
                    return accepted, False
        return accepted, True

    def _try_send(self, queued: QueuedEvent) -> bool:
        """Send one event and record the outcome; True when the Broker accepted it. _BrokerUnavailable."""
        event = queued.event
        try:
            self._send(event)
        except _Rejected as rejected:
            wait = self._queue.mark_rejected(queued, rejected.reason, final=rejected.final)
            outcome = "it is a dead letter now" if wait is None else f"it is tried again in {wait:g} s"
            _log.warning(
                "the Broker rejected event %s of type %s (%s); %s", event.id, event.type, rejected.reason, outcome
            )
            return False
        self._queue.mark_accepted(queued)
        return True

    def _send(self, event: Event) -> None:
        try:
            headers, body = to_http(event)
        except (ValueError, OverflowError, OSError) as error:  # a time outside the calendar
            raise _Rejected(f"it can't be sent: {error}", final=True) from error
        try:
            if (token := self._settings.token_file) is not None:
                # Read each time: the token is replaced before it expires.
                headers["Authorization"] = f"Bearer {token.read_text().strip()}"
            status, text = _post(self._settings.url, headers, body)
        except (OSError, HTTPException, ValueError) as error:
            raise _BrokerUnavailable(str(error) or type(error).__name__) from error
        # A redirect is not an acceptance, and is not followed.
        if not 200 <= status < 300:
            raise _Rejected(f"{status}: {text}", final=400 <= status < 500 and status not in _RETRYABLE_STATUSES)


def _post(url: str, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    """POST; returns the status and the start of an error's text. OSError, HTTPException or ValueError without a response.

    Once connected, the exchange takes `_SEND_SECONDS` at most, however slow the response is.
    """
    target = urlsplit(url)
    with bounded_connection(target, _SEND_SECONDS, connect_seconds=_SEND_SECONDS) as connection:
        connection.request("POST", f"{target.path or '/'}{'?' * bool(target.query)}{target.query}", body, headers)
        with connection.getresponse() as response:
            return response.status, "" if response.status < 300 else _error_text(response)


def _error_text(response: HTTPResponse) -> str:
    """The start of an error's text; empty where it can't be read, since the status alone decides what follows."""
    try:
        return response.read(500).decode(errors="replace")
    except (OSError, HTTPException):
        return ""
