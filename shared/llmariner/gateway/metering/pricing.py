"""What a request costs: whole nano-dollars, the same wherever it is reckoned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FREE", "Cost", "Price"]

_MILLION = 1_000_000


class Cost(NamedTuple):
    """In nano-dollars, by what was paid for: prompt tokens not found in a cache, those found there, output, the request."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    request: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.prompt + self.cached + self.completion + self.request


FREE = Cost()


class Price(NamedTuple):
    """Nano-dollars per million tokens, and per request. Reasoning is output, and paid as such."""

    id: str
    prompt: int
    cached_prompt: int
    completion: int
    request: int

    def cost(self, counts: Mapping[str, Any], outcome: str) -> Cost:
        """What `prompt_tokens`, `cached_tokens` of them and `completion_tokens` cost, each part rounded to a whole.

        The request itself is paid for when it succeeded or used anything.
        """
        prompt, completion = counts["prompt_tokens"], counts["completion_tokens"]
        cached = min(counts["cached_tokens"], prompt)
        counts_as_one = outcome == "succeeded" or prompt + completion > 0
        return Cost(
            _rounded((prompt - cached) * self.prompt),
            _rounded(cached * self.cached_prompt),
            _rounded(completion * self.completion),
            self.request if counts_as_one else 0,
        )


def _rounded(per_million: int) -> int:
    return (per_million + _MILLION // 2) // _MILLION
