"""What an objective says of a batch, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmariner.fine_tuning.training_program.examples import Example

__all__ = ["BatchResult", "Objective"]


@dataclass(frozen=True)
class BatchResult:
    """`tokens`: that were read, prompts included. `measures`: of training and validation alike, without their prefix.

    `others`: of training alone, by their names in reports.
    """

    tokens: int
    measures: Mapping[str, float]
    others: Mapping[str, float] = field(default_factory=dict)

    def measured(self, prefix: str) -> dict[str, float]:
        """The measures by their names in reports."""
        return {f"{prefix}_{name}": value for name, value in self.measures.items()}


class Objective(Protocol):
    """What a method learns. Every worker calls both with the same arguments."""

    def learn(self, model: Any, batch: Sequence[Example], step: int) -> BatchResult:
        """Give the model's parameters the gradients of a batch, of all workers together."""

    def evaluate(self, model: Any, examples: Sequence[Example], step: int) -> BatchResult:
        """The result on examples after a step, without learning from them."""
