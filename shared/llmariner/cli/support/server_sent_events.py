"""Server-sent events, from bytes to frames, comments included.

The HTTP client's own reader drops comments, and those carry the waiting room's facts; its line splitter also
breaks at U+2028, which is legal inside a JSON string. Hence this one. Source: the HTML Living Standard,
section 9.2.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Comment", "Event", "Frame", "parse_frames"]


@dataclass(frozen=True)
class Event:
    """One event; `data` has its lines joined, `name` is empty where the stream gives none."""

    data: str
    name: str = ""


@dataclass(frozen=True)
class Comment:
    """A line that began with a colon."""

    text: str


Frame = Event | Comment


def parse_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Frames as they arrive. An event without its closing blank line is dropped, as the standard says."""
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
    r"""Complete lines, ended by \n or \r\n; the lone \r that the standard also allows no server sends."""
    rest = b""
    for chunk in chunks:
        *complete, rest = (rest + chunk).split(b"\n")
        for line in complete:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
