"""Turns of those that can work side by side, and of one that must be alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = ["Busy", "Turns"]


class Busy(Exception):
    """A turn did not come in time."""


class Turns:
    """Lets any number of callers share, or one have it alone. One waiting for it alone goes before new ones that share.

    A wait of more than its seconds raises Busy, and others then continue as if it had never begun.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._alone = False

    @contextlib.contextmanager
    def shared(self, seconds: float) -> Iterator[None]:
        """Wait until nobody is alone, or waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._alone, seconds):
                raise Busy
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Wait until nobody shares. The caller ensures that there is one at a time."""
        try:
            with self._changed:
                self._alone = True
                if not self._changed.wait_for(lambda: self._sharing == 0, seconds):
                    raise Busy
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
