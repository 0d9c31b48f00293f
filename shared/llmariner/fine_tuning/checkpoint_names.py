"""Names of the models that are made of a job's checkpoints: that of its result, and the step."""

from __future__ import annotations

import re

__all__ = ["MAX_ADDED", "checkpoint_name", "result_name"]

_STEP = re.compile(r":ckpt-step-[0-9]+$")
MAX_ADDED = len(":ckpt-step-1000000")
"""Characters by which such a name is longer than that of the result."""


def checkpoint_name(result: str, step: int) -> str:
    """The name of a checkpoint after a step, as OpenAI's."""
    return f"{result}:ckpt-step-{step}"


def result_name(model: str) -> str:
    """The name of the result of the job that made a model, which is the result or a checkpoint."""
    return _STEP.sub("", model)
