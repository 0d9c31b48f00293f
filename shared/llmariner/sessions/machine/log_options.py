"""What a request for a pod's log asks for, and where in an output the last lines begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmariner.errors import InvalidRequest
from llmariner.platform.jobs import LogPart
from llmariner.sessions.query_parameters import first_values, is_set, whole_number

__all__ = ["CONTAINER", "LogOptions", "start_of_tail"]

CONTAINER = "main"
"""The one container of each pod."""
_MAX_PARTS = 4096
"""More than an output that is kept has; a job may write while it is read."""


@dataclass(frozen=True)
class LogOptions:
    """`tail_lines`, `limit_bytes`, `since_seconds`: None without that limit."""

    follow: bool
    tail_lines: int | None
    limit_bytes: int | None
    since_seconds: int | None

    @classmethod
    def parse(cls, query: bytes) -> LogOptions:
        """Of a query. InvalidRequest for what an output does not have."""
        values = first_values(query)
        if values.get("container", CONTAINER) not in ("", CONTAINER):
            raise InvalidRequest(f"The pods here have one container, '{CONTAINER}'.", param="container")
        if is_set(values, "timestamps") or values.get("sinceTime"):
            raise InvalidRequest(
                "The output of jobs on this machine has no times: leave --timestamps and --since-time out.",
                code="no_log_times",
            )
        if is_set(values, "previous"):
            raise InvalidRequest(
                "The output of a job's earlier starts is in the same log: leave --previous out.", param="previous"
            )
        return cls(
            is_set(values, "follow"),
            whole_number(values, "tailLines", 0),
            whole_number(values, "limitBytes", 1),
            whole_number(values, "sinceSeconds", 1),
        )

    def check_since(self, age_seconds: float) -> None:
        """Raises InvalidRequest where only a part of an output that began so long ago is asked for, by time."""
        if self.since_seconds is not None and age_seconds > self.since_seconds:
            raise InvalidRequest(
                f"The output of jobs on this machine has no times, and this one began {age_seconds:.0f} seconds ago: "
                "leave --since out, or use --tail.",
                param="sinceSeconds",
                code="no_log_times",
            )


def start_of_tail(read: Callable[[int], LogPart], lines: int) -> int:
    """The byte at which the last lines of an output begin, of what there is now. Blocks: reads all that is kept."""
    newlines: list[tuple[int, int]] = []
    part, last = read(0), b"\n"
    while part.data and len(newlines) < _MAX_PARTS:
        newlines.append((part.start, part.data.count(b"\n")))
        last = part.data[-1:]
        part = read(part.end)
    # A line without its end counts, so what ends with one has the beginning of its last line one newline further back.
    wanted = lines + 1 if last == b"\n" else lines
    if not newlines or not lines:
        return part.end
    for begin, count in reversed(newlines):
        if count >= wanted:
            again = read(begin)  # its first bytes may be gone by now
            return _behind_newline(again, count - wanted + 1) if again.start == begin else again.start
        wanted -= count
    return newlines[0][0]


def _behind_newline(part: LogPart, number: int) -> int:
    position = -1
    for _ in range(number):
        position = part.data.index(b"\n", position + 1)
    return part.start + position + 1
