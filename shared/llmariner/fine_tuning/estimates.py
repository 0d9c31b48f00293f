"""What a training will take, before it starts: from the files' tokens, earlier jobs' speed, and the price list."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select

from llmariner.fine_tuning.hyperparameters import Method
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.platform.database import ReadSession

__all__ = ["answer_seconds", "expected_speed"]

_FLOPS = 5e10
"""Operations per second of a few processor cores in float32, where no job has shown how fast this machine is."""
_OPERATIONS = {Method.REINFORCEMENT: 30}
"""Per parameter and token: two of the forward pass, four of the backward pass. An answer is read twice more, and made token
by token, for each of which all weights are read."""
_OTHERS_OPERATIONS = 6
_ANSWER_OPERATIONS, _PROMPT_OPERATIONS = 20, 2
"""Per parameter and token: of what `reinforcement` takes, the part of making an answer; and of reading its prompt."""
_BYTES_PER_PARAMETER = 2


def expected_speed(session: ReadSession, job: Row[Any]) -> float:
    """Tokens per second: of the latest job of any project with this model, method and type that trained; else assumed."""
    c = fine_tuning_jobs.c
    alike = (
        (c.model_id == job.model_id)
        & (c.method == job.method)
        & c.training_type.is_not_distinct_from(job.training_type)
    )
    same = alike & c.tokens_per_second.is_not(None) & (c.step > 0)
    seen = session.value(select(c.tokens_per_second).where(same).order_by(c.id.desc()).limit(1))
    if seen:
        return float(seen)
    parameters = max(1, job.model_bytes / _BYTES_PER_PARAMETER)
    return float(_FLOPS / (_operations(job) * parameters))


def answer_seconds(job: Row[Any], tokens: int, prompt_tokens: int, speed: float) -> float:
    """How long the model in training makes answers of so many tokens, at a speed of trained tokens per second."""
    return (tokens * _ANSWER_OPERATIONS + prompt_tokens * _PROMPT_OPERATIONS) / (speed * _operations(job))


def _operations(job: Row[Any]) -> int:
    return _OPERATIONS.get(Method(job.method), _OTHERS_OPERATIONS)
