"""Ends requests whose callers may send them no more: one may last an hour, and its key be revoked in the meantime."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field

from llmariner.errors import PlatformError, Unavailable

__all__ = ["AccessChecks"]

_log = logging.getLogger(__name__)
_CHECK_SECONDS = 3.0


@dataclass
class _Requests:
    """Open requests that one check is for."""

    check: Callable[[], object]
    ends: list[Callable[[], object]] = field(default_factory=list)


class AccessChecks:
    """The open requests of one process, for its event loop. Requests of the same caller to the same place share a check."""

    def __init__(self) -> None:
        self._open: dict[Hashable, _Requests] = {}
        self._background: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def hold(self, same: Hashable, check: Callable[[], object], end: Callable[[], object]) -> Iterator[None]:
        """Check every few seconds, in a thread, and call `end` once `check` raises PlatformError.

        `same`: what tells checks apart that are not the same. A database that does not answer ends nothing.
        """
        requests = self._open.setdefault(same, _Requests(check))
        requests.ends.append(end)
        if self._background is None or self._background.done():
            self._background = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            requests.ends.remove(end)
            if not requests.ends and self._open.get(same) is requests:
                del self._open[same]

    async def _watch(self) -> None:
        while self._open:
            await asyncio.sleep(_CHECK_SECONDS)
            checks = {same: each.check for same, each in self._open.items()}
            for same in await asyncio.to_thread(_lost, checks):
                for end in list(self._open[same].ends) if same in self._open else ():
                    end()


def _lost(checks: Mapping[Hashable, Callable[[], object]]) -> list[Hashable]:
    """Those whose checks fail. Blocks."""
    lost: list[Hashable] = []
    for same, check in checks.items():
        try:
            check()
        except Unavailable:
            pass  # the database; who may continue is found out later
        except PlatformError as error:
            _log.info("open requests of a caller are ended: %s", error.message)
            lost.append(same)
        except Exception:  # one record that nobody can read holds up no other one
            _log.exception("checking the caller of open requests failed; it is tried again")
    return lost
