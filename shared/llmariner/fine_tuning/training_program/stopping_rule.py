"""When a training stops before its last epoch, and which checkpoint is the best."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    """`patience`: epochs in a row without a lower loss on the whole validation file, after which it stops. None: never."""

    patience: int | None = None
    best_step: int | None = None
    best_loss: float | None = None
    epochs_since_best: int = 0

    def note(self, step: int, loss: float) -> None:
        """Note the loss at the end of an epoch."""
        if self.is_best(loss):
            self.best_step, self.best_loss, self.epochs_since_best = step, loss, 0
        else:
            self.epochs_since_best += 1

    def is_best(self, loss: float) -> bool:
        """Whether a loss is lower than those that were noted."""
        return self.best_loss is None or loss < self.best_loss

    @property
    def is_due(self) -> bool:
        """Whether the training stops now."""
        return self.patience is not None and self.epochs_since_best >= self.patience

    def to_json(self) -> dict[str, Any]:
        """A JSON object for the constructor."""
        return asdict(self)
