"""From when on a new price, or a choice of what is charged, is valid."""

from __future__ import annotations

from llmariner.errors import InvalidRequest
from llmariner.platform.database import ReadSession

__all__ = ["start_of_validity"]

_CLOCK_SKEW_SECONDS = 60.0
"""How far behind the clock may be of somebody who means now."""


def start_of_validity(session: ReadSession, valid_from: float | None, settled: str) -> float:
    """The requested time or now, whichever is later; None: now. Raises InvalidRequest for one that is long past.

    Nothing begins earlier than now: what was used until then may be charged to budgets already, and costs that are shown
    would be others. `settled`: what can't change any more, for the message.
    """
    now = session.now()
    if valid_from is None:
        return now
    if valid_from < now - _CLOCK_SKEW_SECONDS:
        raise InvalidRequest(
            f"'valid_from' is in the past. {settled} then is settled; leave it out to begin now.", param="valid_from"
        )
    return max(valid_from, now)
