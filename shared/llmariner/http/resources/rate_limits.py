"""A project's limits in OpenAI's admin API: one row per model, with a stable id."""

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
"""OpenAI's measures that this platform does not limit."""

_PREFIX = "rl-"


@dataclass(frozen=True)
class RateLimitRow:
    """A project's limits for one model, by measure."""

    model: str
    thresholds: Mapping[str, int]

    @property
    def id(self) -> str:
        """An encoding of the model's id, which may contain slashes."""
        return _PREFIX + base64.urlsafe_b64encode(self.model.encode()).decode().rstrip("=")

    def to_json(self) -> dict[str, Any]:
        """The row as OpenAI's `project.rate_limit`."""
        body = {
            "object": "project.rate_limit",
            "id": self.id,
            "model": self.model,
            "max_requests_per_1_minute": self.thresholds["requests_per_minute"],
            "max_tokens_per_1_minute": self.thresholds["tokens_per_minute"],
        }
        if "requests_per_day" in self.thresholds:
            body["max_requests_per_1_day"] = self.thresholds["requests_per_day"]
        return body


def rate_limit_rows(models: Iterable[str], limits: Iterable[Limit], defaults: Mapping[str, int]) -> list[RateLimitRow]:
    """A row per model: its own limit, else that of all models, else the default of a key."""
    own = {limit.model: limit.thresholds for limit in limits}
    all_models = own.pop(ALL_MODELS, {})
    names = sorted({*models, *own})
    return [RateLimitRow(name, {**defaults, **all_models, **own.get(name, {})}) for name in names]


def model_of(row_id: str) -> str:
    """The model of a row id. Raises NotFound for text that is not a row id."""
    text = row_id.removeprefix(_PREFIX)
    try:
        if text == row_id:
            raise ValueError(row_id)
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise NotFound(f"No rate limit with id '{row_id}' in this project.", param="rate_limit_id") from None
