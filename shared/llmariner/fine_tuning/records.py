"""What the process of a job reports, as values: nothing that it says is taken as it comes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from llmariner.errors import InvalidRequest

__all__ = ["MAX_RECORDS", "count_of", "metrics_of", "number_of", "text_of"]

MAX_RECORDS = 1000
"""Of one report: a process reports once a second, and a step takes milliseconds at least."""

_METRICS = {
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_accuracy": "valid_mean_token_accuracy",
    "full_valid_loss": "full_valid_loss",
    "full_valid_accuracy": "full_valid_mean_token_accuracy",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
    "train_reward": "train_reward_mean",
    "valid_reward": "valid_reward_mean",
    "full_valid_reward": "full_valid_reward_mean",
    "full_valid_grade": "full_valid_grade_mean",
    "base_valid_grade": "base_valid_grade_mean",
    "kl_divergence": "kl_divergence",
    "completion_tokens": "completion_tokens_mean",
    "grader_errors": "grader_error_rate",
}
"""Names in a report, and in OpenAI's API."""


def count_of(record: Mapping[str, Any], name: str, most: int = 2**53) -> int:
    """A whole number from 0. Raises InvalidRequest, as the others here."""
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise _invalid(name)
    return value


def number_of(record: Mapping[str, Any], name: str) -> float:
    """A finite number."""
    value = record.get(name)
    with contextlib.suppress(OverflowError):  # of an integer larger than any float
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    raise _invalid(name)


def text_of(record: Mapping[str, Any], name: str, longest: int) -> str:
    """A text of 1 to so many characters."""
    value = record.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise _invalid(name)
    return value


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record under OpenAI's names."""
    return {shown: number_of(record, name) for name, shown in _METRICS.items() if name in record}


def _invalid(name: str) -> InvalidRequest:
    return InvalidRequest(f"A record's '{name}' is missing or of another form.", param=f"records.{name}")
