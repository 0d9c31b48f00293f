"""Deletes objects that no row points to: what a process left that was killed between a row and its object.

A writer stores the object first and its row within the grace time; a deletion removes the row first. A key is never
given to a second object, so an old object without a row will never have one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from llmariner.platform.objects import ObjectStore

__all__ = ["Collected", "collect"]

_AT_ONCE = 500


@dataclass(frozen=True)
class Collected:
    """`after`: the key to continue after; None at the end of the prefix."""

    scanned: int
    deleted: int
    after: str | None


def collect(
    store: ObjectStore,
    prefix: str,
    referenced: Callable[[Sequence[str]], Collection[str]],
    older_than: float,
    *,
    after: str = "",
    limit: int = 10_000,
) -> Collected:
    """Delete the objects of a prefix that were modified before `older_than` (Unix seconds) and that no row points to.

    `referenced` gets at most 500 keys and returns those that rows point to; it reads committed rows, after the listing.
    At most `limit` objects are read. At the end of the prefix, unfinished objects of that age are discarded. Idempotent.
    """
    found = islice(store.list(prefix, after), limit)
    scanned = deleted = 0
    last = after
    while batch := list(islice(found, _AT_ONCE)):
        scanned += len(batch)
        last = batch[-1].key
        old = [info.key for info in batch if info.modified_at < older_than]
        kept = set(referenced(old)) if old else set()
        garbage = [key for key in old if key not in kept]
        store.delete(garbage)
        deleted += len(garbage)
    if scanned == limit:
        return Collected(scanned, deleted, last)
    store.discard_unfinished(prefix, older_than)
    return Collected(scanned, deleted, None)
