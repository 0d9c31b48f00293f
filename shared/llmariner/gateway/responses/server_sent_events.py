"""Server-sent events as bytes: cutting a stream at event boundaries, and hiding the usage that nobody asked for.

Nothing here parses JSON. Inside a JSON string a quote is always written as \\", so the bytes ,"usage":{ can only be a
member of an object; that is what makes it safe to cut it out by pattern.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llmariner.http_client import ResponseTooLarge

__all__ = ["DONE", "EventSplitter", "UsageFilter", "format_comment", "format_event"]

DONE = b"data: [DONE]\n\n"
_USAGE = re.compile(rb',\s?"usage":\s?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|null)')
_NULL_USAGE = b',"usage":null'
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')

# Longer than any that an engine has reason to send: an echoed prompt is the longest.
_MAX_EVENT_BYTES = 2 * 1024 * 1024


def format_comment(value: dict[str, Any]) -> bytes:
    """A comment line, which SDKs skip and people can read."""
    return b": " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def format_event(value: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class EventSplitter:
    """Cuts a stream of bytes into whole events: what is left over waits for the rest, up to a bound."""

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> bytes:
        """All whole events up to here, as one block; may be empty. ResponseTooLarge when an event has no end."""
        if chunk.endswith(b"\n\n") and not self._parts:
            return chunk
        return self._split(chunk) if chunk else b""

    def _split(self, chunk: bytes) -> bytes:
        parts = self._parts
        parts.append(chunk)
        self._size += len(chunk)
        # Only the new part is looked at, so that a long event in many parts costs no more than its length.
        spans_chunks = len(parts) > 1 and parts[-2].endswith(b"\n") and chunk.startswith(b"\n")
        if not spans_chunks and b"\n\n" not in chunk:
            if self._size > _MAX_EVENT_BYTES:
                raise ResponseTooLarge(f"an event is over {_MAX_EVENT_BYTES} bytes")
            return b""
        block = b"".join(parts)
        end = block.rfind(b"\n\n") + 2
        self._parts = [block[end:]] if end < len(block) else []
        self._size = len(block) - end
        return block[:end]

    @property
    def remainder(self) -> bytes:
        """What came after the last whole event."""
        return b"".join(self._parts)


class UsageFilter:
    """Takes usage out of a stream's events, remembering the last one seen.

    The engine is always asked for usage in every chunk. A caller who asked for nothing sees none of it and no usage-only
    event; one who asked for `include_usage` sees the usage-only event, and null in all others; one who asked for it
    continuously sees all.
    """

    __slots__ = ("_continuous", "_include", "_replacement", "usage")

    def __init__(self, *, include: bool, continuous: bool) -> None:
        self._include = include
        self._continuous = include and continuous
        self._replacement = _NULL_USAGE if include else b""
        self.usage = b""

    def apply(self, block: bytes) -> bytes:
        """What the caller sees of a block of whole events."""
        at = block.rfind(b'"usage":')
        if at < 0:
            return block
        self.usage = block[at:]
        if self._continuous:
            return block
        if _NO_CHOICES.search(block) is None:
            return _USAGE.sub(self._replacement, block)
        return b"".join(self._visible(event + b"\n\n") for event in block.split(b"\n\n") if event)

    def _visible(self, event: bytes) -> bytes:
        if _NO_CHOICES.search(event) is None:
            return _USAGE.sub(self._replacement, event)
        return event if self._include else b""
