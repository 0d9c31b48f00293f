"""Reconciles rows in the order of their ids, in slices of time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Column, ColumnElement, select

from llmariner.platform.database import Database

__all__ = ["KeyedWalk"]

_log = logging.getLogger(__name__)
_BATCH = 200


class KeyedWalk:
    """Walks over the rows whose `pending` is true, a few hundred read at a time.

    `key`: the id, a text; `noun`: what a row is, for logs.

    A walk whose time ended before the last row continues there with the next call.
    """

    def __init__(self, database: Database, key: Column[Any], pending: ColumnElement[bool], noun: str) -> None:
        self._database = database
        self._key = key
        self._pending = pending
        self._noun = noun
        self._visited_to = ""

    def reconcile_each(self, work: Callable[[str], None], *, seconds: float) -> None:
        """Call `work` with the id of each row, for that many seconds. One that fails is logged and holds up no other."""
        until = time.monotonic() + seconds
        while ids := self._next_ids():
            for row_id in ids:
                if time.monotonic() > until:
                    return
                try:
                    work(row_id)
                except Exception:
                    _log.exception("%s %s was not reconciled", self._noun, row_id)
                self._visited_to = row_id
        self._visited_to = ""

    def _next_ids(self) -> list[str]:
        query = select(self._key).where(self._pending, self._key > self._visited_to).order_by(self._key).limit(_BATCH)
        with self._database.read() as session:
            return [row[0] for row in session.rows(query)]
