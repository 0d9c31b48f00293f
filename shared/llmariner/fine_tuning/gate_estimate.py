"""What the answers for a gate will take, before a training starts: they are made by the model in training, and graded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, or_, select

from llmariner.fine_tuning.estimates import answer_seconds
from llmariner.fine_tuning.graders.grades import Judgment, judgments
from llmariner.fine_tuning.hyperparameters import Hyperparameters
from llmariner.fine_tuning.promotion import gate_grader
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession
from llmariner.usage.prices import PriceList

__all__ = ["GateEstimate", "estimate_gate"]

_CHARACTERS_PER_TOKEN = 3
"""Of a grader's own text, at least: words have more."""
_LONGEST_LINE = 4096
"""Tokens, as the check of the files allows."""


@dataclass(frozen=True)
class GateEstimate:
    """The most that the answers take. `models`: the base model, and those of checkpoints that may be the result.

    `answers`: of all models together. `tokens`: of the answers. `cost`: nano-dollars, of models that grade.
    """

    models: int
    answers: int
    tokens: int
    seconds: float
    cost: int

    def to_json(self) -> dict[str, Any]:
        """A JSON object for the constructor."""
        return asdict(self)

    def seconds_left(self, step: int) -> float:
        """Those after a step: before the first one the base model answers, too."""
        return self.seconds if step == 0 else self.seconds * (self.models - 1) / self.models


def estimate_gate(
    session: ReadSession, job: Row[Any], numbers: Hyperparameters, lines: int, tokens: int, speed: float
) -> GateEstimate | None:
    """The estimate for a validation file of so many lines and tokens; None for a job without a gate that grades.

    `speed`: trained tokens per second.
    """
    gate = gate_grader(job)
    if gate is None:
        return None
    number = 1 + (numbers.n_epochs if numbers.early_stopping_patience else 1)
    answers, line_tokens = lines * number, min(_LONGEST_LINE, -(-tokens // max(1, lines)))
    made = answers * gate.max_completion_tokens
    cost = 0
    for judgment in judgments(gate.read()):
        cost += answers * _cost(session, job, judgment, line_tokens + gate.max_completion_tokens)
    return GateEstimate(number, answers, made, answer_seconds(job, made, answers * line_tokens, speed), cost)


def _cost(session: ReadSession, job: Row[Any], judgment: Judgment, filled_in: int) -> int:
    """Nano-dollars of one request to a judging model now, whose templates are filled in with so many tokens."""
    c = models.c
    named = select(c.project_id).where(
        c.id == judgment.model, or_(c.project_id == job.project_id, c.project_id.is_(None))
    )
    project_id = session.value(named)
    listed = PriceList.for_models(session, {judgment.model}, {job.project_id})
    price = listed.at(judgment.model, session.now(), project_id=project_id)
    if price is None:
        return 0
    counts = {
        "prompt_tokens": -(-judgment.characters // _CHARACTERS_PER_TOKEN) + filled_in,
        "cached_tokens": 0,
        "completion_tokens": judgment.completion_tokens,
    }
    return price.cost(counts, "succeeded").total
