"""Processing of each chunk of a stream between the engine and the client."""

from __future__ import annotations

import time

from llmariner.gateway.metering.meter import MeteredRequest
from llmariner.gateway.metering.token_counts import ChoiceUsage
from llmariner.gateway.requests.parser import ModelRequest
from llmariner.gateway.responses import server_sent_events as sse

__all__ = ["StreamRelay"]


class StreamRelay:
    """Splits a stream into events, removes usage that the client did not request, and passes it to the meter.

    `done`: the stream has ended with [DONE].
    """

    __slots__ = ("_choice_counts", "_metered", "_splitter", "_started_at", "_usage_filter", "done")

    def __init__(self, request: ModelRequest, metered: MeteredRequest, started_at: float) -> None:
        self._splitter = sse.EventSplitter()
        self._usage_filter = sse.UsageFilter(include=request.include_usage, continuous=request.continuous_usage)
        self._choice_counts = ChoiceUsage(request) if request.choice_count > 1 else None
        self._metered = metered
        self._started_at = started_at
        self.done = False

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that the client gets for a chunk; may be empty."""
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
