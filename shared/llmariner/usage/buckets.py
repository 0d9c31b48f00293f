"""Pages of time buckets, the format of OpenAI's usage and costs endpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

from llmariner.errors import InvalidRequest

__all__ = ["BucketPage", "bucket_page", "validate_group_by"]

_WIDTHS = {"1m": 60, "1h": 3600, "1d": 86400}
_PAGE = "page_"

Row = TypeVar("Row")


@dataclass(frozen=True)
class BucketPage:
    """A page: `count` buckets of `width` seconds from `start`, a multiple of `width`; `next_start` None: the last page."""

    start: int
    width: int
    count: int
    next_start: int | None

    @property
    def end(self) -> int:
        """The end of the last bucket."""
        return self.start + self.count * self.width

    def render(
        self,
        rows: Sequence[Row],
        results: Callable[[list[Row]], list[dict[str, Any]]],
        *,
        start: Callable[[Any], int] = itemgetter("start"),
    ) -> dict[str, Any]:
        """The JSON of the page. `start(row)` is that of a row's bucket; `results(rows)` returns a bucket's results."""
        rows_by_start: dict[int, list[Row]] = {}
        for row in rows:
            rows_by_start.setdefault(start(row), []).append(row)
        data = [
            {
                "object": "bucket",
                "start_time": begin,
                "end_time": begin + self.width,
                "results": results(rows_by_start.get(begin, [])),
            }
            for begin in range(self.start, self.end, self.width)
        ]
        token = None if self.next_start is None else f"{_PAGE}{self.next_start}"
        return {"object": "page", "data": data, "has_more": token is not None, "next_page": token}


def bucket_page(*, start: int, end: int | None, width: str, limit: int, page: str | None) -> BucketPage:
    """The requested page. Buckets are whole minutes, hours or days of UTC; the first one contains `start`.

    `end` is exclusive, None: now. Raises InvalidRequest for an empty span, and for a page token of another query.
    """
    size = _WIDTHS[width]
    stop = time.time() if end is None else end
    if stop <= start:
        raise InvalidRequest("'end_time' must be after 'start_time'.", param="end_time")
    first = start // size * size
    if page is not None:
        number = page.removeprefix(_PAGE)
        if not (page.startswith(_PAGE) and number.isascii() and number.isdigit() and len(number) <= 12):
            raise _unknown_page(page)
        # A token of another width or span is invalid here.
        if int(number) % size or not first <= int(number) < stop:
            raise _unknown_page(page)
        first = int(number)
    left = math.ceil((stop - first) / size)
    count = min(left, limit)
    return BucketPage(first, size, count, first + count * size if left > count else None)


def validate_group_by(requested: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    """The `group_by` values without duplicates. Raises InvalidRequest for an unknown one."""
    for name in requested:
        if name not in allowed:
            raise InvalidRequest(f"'group_by' must be of {', '.join(allowed)}, not '{name[:40]}'.", param="group_by")
    return tuple(dict.fromkeys(requested))


def _unknown_page(page: str) -> InvalidRequest:
    return InvalidRequest(
        f"No page '{page[:40]}' of this question: give back the 'next_page' of the answer before, and change nothing else.",
        param="page",
    )
