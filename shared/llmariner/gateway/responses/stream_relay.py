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

    __slots__ = ("_answers", "_began", "_cutter", "_hider", "_metered", "done")

    def __init__(self, request: ModelRequest, metered: Metered, began: float) -> None:
        self._cutter = sse.EventCutter()
        self._hider = sse.UsageHider(include=request.include_usage, continuous=request.continuous_usage)
        self._answers = AnswerCounts(request) if request.choice_count > 1 else None
        self._metered = metered
        self._began = began
        self.done = False

    def pass_on(self, chunk: bytes) -> bytes:
        """What the caller sees of a chunk, now; may be empty."""
        block = self._cutter.feed(chunk)
        if not block:
            return b""
        seen = self._hider.pass_on(block)
        metered = self._metered
        metered.usage = self._hider.usage if self._answers is None else self._answers.add(block)
        if metered.first_token_seconds is None:
            metered.first_token_seconds = time.perf_counter() - self._began
        self.done = block.endswith(sse.DONE)
        return seen
