"""What an engine says of itself: requests running and waiting, tokens so far. Read from vLLM's /metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["TIMEOUT_SECONDS", "EngineMetrics", "read_metrics"]

# Whoever asks looks after other engines, too, or wants the room that this one takes.
TIMEOUT_SECONDS = 15.0
# Many times as much as vLLM says.
_MAX_RESPONSE_BYTES = 4 * 1024 * 1024
_METRIC_FIELDS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
}


@dataclass(frozen=True)
class EngineMetrics:
    """Counts of one engine: requests now, tokens since its start."""

    running: int = 0
    waiting: int = 0
    generation_tokens: int = 0
    prompt_tokens: int = 0

    @property
    def busy(self) -> bool:
        """Something is in flight."""
        return self.running + self.waiting > 0


async def read_metrics(client: Client, endpoint: str, *, timeout: float = TIMEOUT_SECONDS) -> EngineMetrics | None:
    """The counts now; None when the engine has not answered within `timeout` seconds, or nothing that can be read."""
    try:
        async with asyncio.timeout(timeout):
            response = await client.request(endpoint, "GET", "/metrics")
            text = (await response.read(_MAX_RESPONSE_BYTES)).decode()
        values = dict.fromkeys(_METRIC_FIELDS.values(), 0)
        for line in text.splitlines():
            name = line.partition("{")[0].partition(" ")[0]
            if name in _METRIC_FIELDS:
                values[_METRIC_FIELDS[name]] += int(float(line.rpartition(" ")[2]))
    except (ConnectionFailed, ResponseFailed, TimeoutError, ValueError, OverflowError):
        return None
    return EngineMetrics(**values)
