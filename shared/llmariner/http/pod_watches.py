"""Watches of the pods of one machine: what changes of a project's pods, as Kubernetes' API reports it.

One task looks at the pods of a project for all of its watchers in this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from llmariner.errors import PlatformError
from llmariner.http.followers import FollowerPlaces, wait_for_change

if TYPE_CHECKING:
    from llmariner.sessions.machine.pods import MachinePod

__all__ = ["MAX_PODS", "PodChange", "PodWatches"]

_LOOK_SECONDS = 1.0
_CHECK_SECONDS = 10.0
_MAX_SECONDS = 3500.0
"""Less than the time limit of the function."""
MAX_PODS = 1000
"""How many pods of a project and kind are looked at, the newest."""

Pods = Mapping[str, "MachinePod"]


class PodChange(NamedTuple):
    """`kind`: ADDED, MODIFIED, DELETED or empty (it did not change), with the pod as it is, or was."""

    kind: str
    pod: MachinePod


class _Look:
    """What the pods of a project were when they were last looked at. None: not yet."""

    def __init__(self) -> None:
        self.pods: Pods | None = None
        self.error: PlatformError | None = None
        self.changed = asyncio.Event()
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None


class PodWatches:
    """Watches of one process, used in one event loop. `pods`: the pods of a project by their names; it blocks."""

    def __init__(self, pods: Callable[[str], Pods]) -> None:
        self._pods = pods
        self._looks: dict[str, _Look] = {}
        self._places = FollowerPlaces("pods", "List the pods")

    def check_room(self, project_id: str) -> None:
        """Hold a place for a caller who is about to watch. RateLimited where all, or all of a project, are taken."""
        self._places.hold(project_id)

    async def watch(
        self, project_id: str, since: float | None, seconds: float, allowed: Callable[[], None]
    ) -> AsyncGenerator[PodChange, None]:
        """Changes from the first look on, for so many seconds, or until `allowed` raises.

        At first all pods are reported as added; with `since`, Unix seconds, those that changed from then on, and of
        the others as not changed.
        """
        look = self._join(project_id)
        known: Pods | None = None
        try:
            if look.pods is None:  # a short watch must not end before it reports what there is
                await wait_for_change(look.changed, _CHECK_SECONDS)
            checked = time.monotonic()
            end = checked + min(seconds, _MAX_SECONDS)
            while (now := time.monotonic()) < end:
                if now - checked > _CHECK_SECONDS:
                    await asyncio.to_thread(allowed)
                    checked = now
                changed = look.changed
                if look.pods is not None and look.pods is not known:
                    before, known = known, look.pods
                    for change in _first(known, since) if before is None else _changes(before, known):
                        yield change
                if look.error is not None:
                    return
                await wait_for_change(changed, min(_CHECK_SECONDS, end - now))
        except PlatformError:
            return
        finally:
            self._leave(project_id, look)

    def _join(self, project_id: str) -> _Look:
        if (look := self._looks.get(project_id)) is None:
            look = self._looks[project_id] = _Look()
            look.task = asyncio.create_task(self._follow(project_id, look))
        self._places.enter(project_id)
        look.watchers += 1
        return look

    def _leave(self, project_id: str, look: _Look) -> None:
        self._places.leave(project_id)
        look.watchers -= 1
        if not look.watchers and look.task is not None:
            look.task.cancel()
            if self._looks.get(project_id) is look:
                del self._looks[project_id]

    async def _follow(self, project_id: str, look: _Look) -> None:
        try:
            while True:
                pods = await asyncio.to_thread(self._pods, project_id)
                if pods != look.pods:
                    look.pods = pods
                    look.changed.set()
                    look.changed = asyncio.Event()
                await asyncio.sleep(_LOOK_SECONDS)
        except PlatformError as error:
            look.error = error
        finally:
            # The next watcher begins another one.
            if self._looks.get(project_id) is look:
                del self._looks[project_id]
            look.error = look.error or PlatformError("The pods are not looked at any more.")
            look.changed.set()


def _first(pods: Pods, since: float | None) -> list[PodChange]:
    if since is None:
        return [PodChange("ADDED", pod) for pod in pods.values()]
    # A caller may be sent again what it knows, but misses nothing.
    kinds = {
        pod: "ADDED" if pod.created_at >= since else "MODIFIED" for pod in pods.values() if pod.changed_at >= since
    }
    return [PodChange(kinds.get(pod, ""), pod) for pod in pods.values()]


def _changes(before: Pods, now: Pods) -> list[PodChange]:
    # Of more pods than are looked at, one that is missing may be one of the others.
    gone = [pod for name, pod in before.items() if name not in now] if len(now) < MAX_PODS else []
    found = [PodChange("DELETED", pod) for pod in gone]
    for name, pod in now.items():
        if name not in before:
            found.append(PodChange("ADDED", pod))
        elif pod != before[name]:
            found.append(PodChange("MODIFIED", pod))
    return found
