"""Collects the objects that no row refers to: what a process left that was killed between a row and its object."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from llmariner.files.content import CONTENT_PREFIX, store_errors
from llmariner.files.files import Files
from llmariner.files.upload import PART_PREFIX
from llmariner.files.uploads import Uploads
from llmariner.identifiers import first_id
from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.garbage import collect

__all__ = ["GRACE_SECONDS", "collect_garbage", "collect_parts"]

GRACE_SECONDS = 86400.0
"""Longer than any request takes from the first byte of a content to its row. S3 dates an object by its beginning."""

_AT_ONCE = 5000


def collect_garbage(files: Files, objects: ObjectStore, *, seconds: float) -> int:
    """Delete contents without a row that are older than `GRACE_SECONDS`; returns their number. Raises Unavailable.

    A pass begins at a random content and continues at the first one. One that takes longer than `seconds` ends early;
    such passes cover all contents in the course of time.
    """
    middle = CONTENT_PREFIX + first_id("content", random.uniform(files.oldest_content_at(), time.time()))
    return _collect(objects, CONTENT_PREFIX, middle, files.referenced, seconds)


def collect_parts(uploads: Uploads, objects: ObjectStore, *, seconds: float) -> int:
    """As `collect_garbage`, for the parts of uploads."""
    middle = PART_PREFIX + first_id("upload", time.time() - random.uniform(0, 2 * GRACE_SECONDS))
    return _collect(objects, PART_PREFIX, middle, uploads.referenced, seconds)


def _collect(
    objects: ObjectStore, prefix: str, middle: str, referenced: Callable[[Sequence[str]], set[str]], seconds: float
) -> int:
    older_than, deadline, deleted = time.time() - GRACE_SECONDS, time.monotonic() + seconds, 0
    for begin, end in ((middle, None), ("", middle)):
        after: str | None = begin
        while after is not None and (end is None or after < end):
            if time.monotonic() > deadline:
                return deleted
            with store_errors():
                found = collect(objects, prefix, referenced, older_than, after=after, limit=_AT_ONCE)
            deleted, after = deleted + found.deleted, found.after
    return deleted
