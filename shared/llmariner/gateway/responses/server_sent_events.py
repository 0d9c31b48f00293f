"""Server-sent events as bytes: splitting a stream at event boundaries, and removing usage that the client did not request.

No JSON is parsed. Inside a JSON string a quote is always escaped as \\", so the bytes ,"usage":{ can only be a member of an
object, and a pattern can remove them safely.
"""

from __future__ import annotations

import json
import re
from typing import Any

from llmariner.gateway.metering.token_counts import is_null_usage, may_have_text
from llmariner.http_client import ResponseTooLarge

__all__ = ["DONE", "EventSplitter", "UsageFilter", "format_comment", "format_event"]

DONE = b"data: [DONE]\n\n"
_USAGE = re.compile(rb',\s?"usage":\s?(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|null)')
_NULL_USAGE = b',"usage":null'
_NAME = b'"usage":'
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
# Each splice copies the rest of the block, so that many would take the square of their number.
_MAX_SPLICES = 16
# A block without it has no event without choices.
_EMPTY_ARRAY = b"[]"

# The longest legitimate event is an echoed prompt.
_MAX_EVENT_BYTES = 2 * 1024 * 1024


def format_comment(value: dict[str, Any]) -> bytes:
    """A comment line with a JSON object; SDKs ignore it."""
    return b": " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def format_event(value: dict[str, Any]) -> bytes:
    """One event with a JSON object as its data."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


class EventSplitter:
    """Splits a stream of bytes into complete events, and buffers an incomplete one up to a limit."""

    __slots__ = ("_pending", "_pending_bytes")

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        """The events that are complete now, as one block; may be empty. ResponseTooLarge when an event exceeds the limit.

        Lines that end in CRLF, as some engines write them, end in LF afterwards. JSON contains no CR that is not escaped.
        """
        if chunk.endswith(b"\n\n") and not self._pending:
            return chunk
        chunk = chunk.replace(b"\r", b"")
        return self._split(chunk) if chunk else b""

    def _split(self, chunk: bytes) -> bytes:
        pending = self._pending
        pending.append(chunk)
        self._pending_bytes += len(chunk)
        # Only the new chunk is searched, so that a long event in many chunks takes linear time.
        spans_chunks = len(pending) > 1 and pending[-2].endswith(b"\n") and chunk.startswith(b"\n")
        if not spans_chunks and b"\n\n" not in chunk:
            if self._pending_bytes > _MAX_EVENT_BYTES:
                raise ResponseTooLarge(f"an event is over {_MAX_EVENT_BYTES} bytes")
            return b""
        block = b"".join(pending)
        end = block.rfind(b"\n\n") + 2
        self._pending = [block[end:]] if end < len(block) else []
        self._pending_bytes = len(block) - end
        return block[:end]

    @property
    def remainder(self) -> bytes:
        """The bytes after the last complete event."""
        return b"".join(self._pending)


class UsageFilter:
    """Removes usage from the events of a stream. `usage`: the bytes from the last usage on.

    A null usage counts as none in an event without text: the counts before it are those of the whole answer.

    The engine always sends usage in every chunk. Without `include_usage` the client gets no usage and no usage-only
    event; with it, the usage-only event, and null in all others; with `continuous_usage_stats`, all usage.
    """

    __slots__ = ("_continuous", "_include", "_replacement", "usage")

    def __init__(self, *, include: bool, continuous: bool) -> None:
        self._include = include
        self._continuous = include and continuous
        self._replacement = _NULL_USAGE if include else b""
        self.usage = b""

    def apply(self, block: bytes) -> bytes:
        """The part of a block of complete events that the client gets."""
        # `partition` takes one argument, and so half the time of `find` in CPython 3.11.
        _, name, rest = block.rpartition(_NAME)
        if not name:
            return block
        usage = name + rest
        if self._continuous:
            self._store(block, usage)
            return block
        if not block.partition(_EMPTY_ARRAY)[1] or _NO_CHOICES.search(block) is None:
            return self._without_usage(block, usage)
        self._store(block, usage)
        return b"".join(self._visible(event + b"\n\n") for event in block.split(b"\n\n") if event)

    def _store(self, block: bytes, usage: bytes) -> None:
        """Store the last usage of a block, which begins with `usage`."""
        if not is_null_usage(usage):
            self.usage = usage
            return
        for event in block.split(b"\n\n"):
            _, name, rest = event.rpartition(_NAME)
            if not name:
                continue
            found = name + rest
            # Counts are outdated by text that came after them.
            if not is_null_usage(found) or not self.usage or (not is_null_usage(self.usage) and may_have_text(event)):
                self.usage = found

    def _without_usage(self, block: bytes, usage: bytes) -> bytes:
        """The block with every usage replaced. Nearly all are flat objects, for which the pattern takes half more."""
        kept, (before, name, rest) = b"", block.partition(_NAME)
        for _ in range(_MAX_SPLICES):
            if not name:
                self.usage = usage
                return kept + before
            counts, closing, after = rest.partition(b"}")
            outside, opening, _ = counts.rpartition(b"{")
            if not closing or not opening or outside or not before.endswith(b","):
                break
            kept += before[:-1] + self._replacement
            before, name, rest = after.partition(_NAME)
        self._store(block, usage)
        return _USAGE.sub(self._replacement, block)

    def _visible(self, event: bytes) -> bytes:
        if _NAME not in event:
            return event
        if _NO_CHOICES.search(event) is None:
            return _USAGE.sub(self._replacement, event)
        return event if self._include else b""
