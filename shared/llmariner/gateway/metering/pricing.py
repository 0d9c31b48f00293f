"""The cost of a request in integer nano-dollars; the gateway and the ledger compute the same amount."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FREE", "Cost", "Price"]

_MILLION = 1_000_000


class Cost(NamedTuple):
    """Nano-dollars for uncached prompt tokens, cached prompt tokens, completion tokens, the request, and trained tokens."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    request: int = 0
    training: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return self.prompt + self.cached + self.completion + self.request + self.training


FREE = Cost()


class Price(NamedTuple):
    """Nano-dollars per million tokens, and per request. Reasoning tokens are completion tokens."""

    id: str
    prompt: int
    cached_prompt: int
    completion: int
    request: int
    training: int = 0

    def cost(self, counts: Mapping[str, Any], outcome: str) -> Cost:
        """The cost of `prompt_tokens`, `cached_tokens` (a part of them) and `completion_tokens`.

        Each is rounded to an integer. The request itself is charged if it succeeded or used tokens.
        """
        prompt, completion = counts["prompt_tokens"], counts["completion_tokens"]
        cached = min(counts["cached_tokens"], prompt)
        is_charged = outcome == "succeeded" or prompt + completion > 0
        return Cost(
            _rounded((prompt - cached) * self.prompt),
            _rounded(cached * self.cached_prompt),
            _rounded(completion * self.completion),
            self.request if is_charged else 0,
        )

    def training_cost(self, tokens: int) -> Cost:
        """The cost of trained tokens. A training is no request, and costs nothing else."""
        return Cost(training=_rounded(tokens * self.training))


def _rounded(per_million: int) -> int:
    return (per_million + _MILLION // 2) // _MILLION
