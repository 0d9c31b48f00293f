"""The id that a batch job has for what runs it: its own, with the number of its placement after it was placed again.

So what an earlier placement left has another name, and its token is no token of the present one.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Row

__all__ = ["port_id", "split_port_id"]

_PLACED = re.compile(r"(.+)-p([1-9][0-9]{0,8})")


def port_id(row: Row[Any]) -> str:
    """The id for the port of a row of `batch_jobs`."""
    return f"{row.id}-p{row.placement}" if row.placement else str(row.id)


def split_port_id(name: str) -> tuple[str, int]:
    """The id of the row, and the number of the placement: 0 for the first one."""
    found = _PLACED.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)
