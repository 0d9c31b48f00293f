"""What happens to each chunk of a stream on its way from the engine to the caller."""

from __future__ import annotations

import time

from llmariner.gateway.metering.meter import Metered
from llmariner.gateway.metering.token_counts import AnswerCounts
from llmariner.gateway.requests.parser import ModelRequest
from llmariner.gateway.responses import server_sent_events as sse

__all__ = ["StreamRelay"]


class StreamRelay:
    """Cuts a stream at its events, hides usage that was not asked for, and lets the meter see it."""

    __slots__ = ("_choice_counts", "_metered", "_splitter", "_started_at", "_usage_filter", "done")

    def __init__(self, request: ModelRequest, metered: Metered, started_at: float) -> None:
        self._splitter = sse.EventSplitter()
        self._usage_filter = sse.UsageFilter(include=request.include_usage, continuous=request.continuous_usage)
        self._choice_counts = AnswerCounts(request) if request.choice_count > 1 else None
        self._metered = metered
        self._started_at = started_at
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """What the caller sees of a chunk, now; may be empty."""
        block = self._splitter.feed(chunk)
        if not block:
            return b""
        visible = self._usage_filter.apply(block)
        metered = self._metered
        metered.usage = self._usage_filter.usage if self._choice_counts is None else self._choice_counts.add(block)
        if metered.first_token_seconds is None:
            metered.first_token_seconds = time.perf_counter() - self._started_at
        self.done = block.endswith(sse.DONE)
        return visible
