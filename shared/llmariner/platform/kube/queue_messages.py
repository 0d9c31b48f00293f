"""Kueue's messages about a workload, as a tenant may read them."""

from __future__ import annotations

import re

__all__ = ["public_message"]

_PREEMPTED = re.compile(
    r"Preempted to accommodate a workload\b.*?(?: due to ([^;]*))?(?:; preempt\w+ path: [^;]*)*$", re.S
)


def public_message(message: str) -> str:
    """A message of a Workload's condition without the work of others: whose queue it preempted for, and its ids."""
    found = _PREEMPTED.search(message)
    if found is None:
        return message
    cause = f" due to {found[1].strip()}" if found[1] else ""
    return f"{message[: found.start()]}Preempted for other work{cause}."
