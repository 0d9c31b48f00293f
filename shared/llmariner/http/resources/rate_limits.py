"""A project's limits as OpenAI's admin API shows them: a row per model, whose id never changes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmariner.errors import NotFound
from llmariner.limits.rules import ALL_MODELS, Limit

__all__ = ["UNSUPPORTED", "RateLimitRow", "model_of", "rate_limit_rows"]

UNSUPPORTED = ("max_images_per_1_minute", "max_audio_megabytes_per_1_minute", "batch_1_day_max_input_tokens")
"""Measures of OpenAI's that nothing here is counted by."""

_PREFIX = "rl-"


@dataclass(frozen=True)
class RateLimitRow:
    """What a project may use of one model."""

    model: str
    thresholds: Mapping[str, int]

    @property
    def id(self) -> str:
        """Made of the model's id, which may hold slashes."""
        return _PREFIX + base64.urlsafe_b64encode(self.model.encode()).decode().rstrip("=")

    def shown(self) -> dict[str, Any]:
        """The row on the wire."""
        shown = {
            "object": "project.rate_limit",
            "id": self.id,
            "model": self.model,
            "max_requests_per_1_minute": self.thresholds["requests_per_minute"],
            "max_tokens_per_1_minute": self.thresholds["tokens_per_minute"],
        }
        if "requests_per_day" in self.thresholds:
            shown["max_requests_per_1_day"] = self.thresholds["requests_per_day"]
        return shown


def rate_limit_rows(models: Iterable[str], limits: Iterable[Limit], defaults: Mapping[str, int]) -> list[RateLimitRow]:
    """By model: what its own limit says, else that of all models, else what a key may use by default."""
    own = {limit.model: limit.thresholds for limit in limits}
    everywhere = own.pop(ALL_MODELS, {})
    names = sorted({*models, *own})
    return [RateLimitRow(name, {**defaults, **everywhere, **own.get(name, {})}) for name in names]


def model_of(row_id: str) -> str:
    """The model of a row. NotFound for what is no row's id."""
    text = row_id.removeprefix(_PREFIX)
    try:
        if text == row_id:
            raise ValueError(row_id)
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise NotFound(f"No rate limit with id '{row_id}' in this project.", param="rate_limit_id") from None
