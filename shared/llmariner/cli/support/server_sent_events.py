"""A parser of server-sent events that keeps comments (HTML Living Standard, section 9.2.6).

The HTTP library's parser drops comments, which carry the progress of the waiting room, and splits lines at U+2028,
which is legal inside a JSON string.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Comment", "Event", "Frame", "parse_frames"]


@dataclass(frozen=True)
class Event:
    """One event; `data` is its data lines joined by newlines, `name` is empty if the stream has none."""

    data: str
    name: str = ""


@dataclass(frozen=True)
class Comment:
    """The text of a line that starts with a colon."""

    text: str


Frame = Event | Comment


def parse_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yields frames as they arrive. The standard requires an event without its final blank line to be dropped."""
    data: list[str] = []
    name = ""
    for line in _lines(chunks):
        if line.startswith(":"):
            yield Comment(line[1:].strip())
        elif line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                name = value
        else:
            if data:
                yield Event("\n".join(data), name)
            data, name = [], ""


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    r"""Yields complete lines that end with \n or \r\n; a lone \r, which the standard permits, is not supported."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
