"""An engine's counters from vLLM's /metrics: requests running and waiting, tokens so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from llmariner.http_client import Client, ConnectionFailed, ResponseFailed

__all__ = ["TIMEOUT_SECONDS", "EngineMetrics", "read_metrics"]

# Callers monitor other engines too, or need the memory of this one.
TIMEOUT_SECONDS = 15.0
# vLLM's metrics are far smaller.
_MAX_RESPONSE_BYTES = 4 * 1024 * 1024
_METRIC_FIELDS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generation_tokens",
    "vllm:prompt_tokens_total": "prompt_tokens",
}


@dataclass(frozen=True)
class EngineMetrics:
    """Counters of one engine: current requests, tokens since its start."""

    running: int = 0
    waiting: int = 0
    generation_tokens: int = 0
    prompt_tokens: int = 0

    @property
    def busy(self) -> bool:
        """Whether any request is in flight."""
        return self.running + self.waiting > 0


async def read_metrics(client: Client, endpoint: str, *, timeout: float = TIMEOUT_SECONDS) -> EngineMetrics | None:
    """The current counters; None if the engine sends none that can be parsed within `timeout` seconds."""
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
