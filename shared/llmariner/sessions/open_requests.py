"""How many requests of a person and of an organization are open at once: each may last an hour, and takes a place."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from llmariner.errors import RateLimited

__all__ = ["OpenRequests"]

_PER_USER, _PER_ORGANIZATION = 100, 400


class OpenRequests:
    """The open requests of one process, for its event loop."""

    def __init__(self, per_user: int = _PER_USER, per_organization: int = _PER_ORGANIZATION) -> None:
        self._limits = (per_user, per_organization)
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, user_id: str, organization_id: str) -> Iterator[None]:
        """Count a request while it is open. Raises RateLimited for one too many."""
        owners = (f"user/{user_id}", f"organization/{organization_id}")
        for owner, limit, whose in zip(owners, self._limits, ("you have", "your organization has"), strict=True):
            if self._open[owner] >= limit:
                raise RateLimited(
                    f"{limit} requests to clusters are open that {whose} sent: end a watch or a session first.",
                    code="too_many_open_requests",
                    headers={"retry-after": "10"},
                )
        self._open.update(owners)
        try:
            yield
        finally:
            self._open.subtract(owners)
            for owner in owners:
                if not self._open[owner]:
                    del self._open[owner]
