"""Carries events from the outbox to a Knative Broker: right after the commit, and by the sweep what was left behind.

At least once: an event whose acceptance we did not hear of is sent again. In order: the first that is refused ends the
round, so that a later one of its subject never overtakes it.
"""

from __future__ import annotations

import urllib.error
import urllib.request

from sqlalchemy import and_, delete, select, update

from llmariner.platform.database import Database
from llmariner.platform.events.outbox import event_of
from llmariner.platform.events.tables import deliveries, events
from llmariner.platform.events.wire import Event, to_http
from llmariner.settings import BrokerSettings

__all__ = ["Publisher"]

_AT_ONCE = 100
_SECONDS = 10.0


class Publisher:
    """Publishes to the ingress of one Broker."""

    def __init__(self, database: Database, settings: BrokerSettings) -> None:
        self._database = database
        self._settings = settings

    def publish(self) -> int:
        """Send what is not published yet; returns how many the Broker took. Never raises for a Broker that is away.

        What is to be replayed is sent, too, to every consumer of its type: a Broker knows no other way.
        """
        taken = self._replay()
        while batch := self._unpublished():
            for sequence, event in batch:
                if not self._send(event):
                    return taken
                with self._database.write() as session:
                    session.run(update(events).where(events.c.sequence == sequence).values(published=True))
                taken += 1
        return taken

    def _unpublished(self) -> list[tuple[int, Event]]:
        query = select(events).where(events.c.published.is_(False)).order_by(events.c.sequence).limit(_AT_ONCE)
        with self._database.read() as session:
            return [(row.sequence, event_of(row)) for row in session.rows(query)]

    def _replay(self) -> int:
        """A delivery is pending here only when a dead one was revived; the Broker has it from now on."""
        query = select(events).join(deliveries, deliveries.c.sequence == events.c.sequence).distinct()
        with self._database.read() as session:
            revived = session.rows(query.where(deliveries.c.state == "pending").limit(_AT_ONCE))
        taken = 0
        for row in revived:
            if self._send(event_of(row)):
                theirs = and_(deliveries.c.sequence == row.sequence, deliveries.c.state == "pending")
                with self._database.write() as session:
                    session.run(delete(deliveries).where(theirs))
                taken += 1
        return taken

    def _send(self, event: Event) -> bool:
        headers, body = to_http(event)
        try:
            if (token := self._settings.token_file) is not None:
                # Read each time: it is replaced before it expires.
                headers["Authorization"] = f"Bearer {token.read_text().strip()}"
            request = urllib.request.Request(self._settings.url, body, headers)
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return bool(200 <= answer.status < 300)
        except (OSError, urllib.error.HTTPError):
            return False
