"""A parser of server-sent events that keeps comments (HTML Living Standard, section 9.2.6).

The HTTP library's parser drops comments, which carry the progress of the waiting room, and splits lines at U+2028,
which is legal inside a JSON string.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Comment", "Event", "Frame", "FrameTooLarge", "parse_frames"]

_MAX_BYTES = 64 * 1024 * 1024
"""Of a line, and of an event: a server that never ends one would fill the memory."""


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


class FrameTooLarge(Exception):
    """A line or an event is larger than `llma` reads."""


def parse_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yields frames as they arrive. The standard requires an event without its final blank line to be dropped.

    Raises FrameTooLarge for one of more than 64 MiB.
    """
    data: list[str] = []
    name, size = "", 0
    for line in _lines(chunks):
        if line.startswith(":"):
            yield Comment(line[1:].strip())
        elif line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
                size = _checked(size + len(value) + 1)
            elif field == "event":
                name = value
        else:
            if data:
                yield Event("\n".join(data), name)
            data, name, size = [], "", 0


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    r"""Yields complete lines that end with \n or \r\n; a lone \r, which the standard permits, is not supported."""
    parts: list[bytes] = []  # of the line that has not ended; joined once, or a long one would take quadratic time
    size = 0
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        parts.append(first)
        size = _checked(size + len(first))
        for each in others:
            yield b"".join(parts).removesuffix(b"\r").decode("utf-8", "replace")
            parts, size = [each], len(each)


def _checked(size: int) -> int:
    if size > _MAX_BYTES:
        raise FrameTooLarge(f"a part of a stream of more than {_MAX_BYTES >> 20} MiB")
    return size
