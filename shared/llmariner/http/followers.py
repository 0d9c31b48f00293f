"""Callers who follow something for as long as an hour: their places in one process, and their waits for a change."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from llmariner.errors import RateLimited

__all__ = ["FollowerPlaces", "wait_for_change"]

_MAX_FOLLOWERS = 100
"""In one process; each holds a connection."""
_MAX_FOLLOWERS_OF_PROJECT = 25
"""Else one project could keep all others from following theirs."""
_BEGIN_SECONDS = 10.0
"""For how long a place is held for a follower whose response is to begin."""


class FollowerPlaces:
    """Used in one event loop. `what` is followed, and `instead` is what a caller without a place may do."""

    def __init__(self, what: str, instead: str) -> None:
        self._what = what
        self._instead = instead
        self._taken: Counter[str] = Counter()
        self._coming: list[tuple[str, float]] = []
        """Projects whose callers have a place, and until when, if they do not begin to follow."""

    def hold(self, project_id: str) -> None:
        """Hold a place for a caller who is about to follow. RateLimited where all, or all of a project, are taken."""
        now = time.monotonic()
        self._coming = [each for each in self._coming if each[1] > now]
        held = self._taken + Counter(project for project, _ in self._coming)
        if held[project_id] >= _MAX_FOLLOWERS_OF_PROJECT or held.total() >= _MAX_FOLLOWERS:
            raise RateLimited(
                f"{_MAX_FOLLOWERS} callers follow {self._what} here already, or {_MAX_FOLLOWERS_OF_PROJECT} those of your "
                f"project. {self._instead}, or try later.",
                headers={"retry-after": "30"},
            )
        self._coming.append((project_id, now + _BEGIN_SECONDS))

    def enter(self, project_id: str) -> None:
        """A caller begins to follow, in the place that is held for one of the project, if any is."""
        if (place := next((each for each in self._coming if each[0] == project_id), None)) is not None:
            self._coming.remove(place)
        self._taken[project_id] += 1

    def leave(self, project_id: str) -> None:
        """A caller who followed does not any more."""
        self._taken -= Counter({project_id: 1})


async def wait_for_change(changed: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, at most for so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return
