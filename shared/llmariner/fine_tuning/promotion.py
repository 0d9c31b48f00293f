"""What a job says of its promotion: the alias that moves to its result, and the gate that the result must pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmariner.errors import InvalidRequest
from llmariner.models.alias import check_alias_name

__all__ = ["Promotion"]


@dataclass(frozen=True)
class Promotion:
    """An alias to move to the result of a job.

    `has_gate`: only where the loss on the validation file is at most `maximum`, if that is given, and lower than the base
    model's, if `better_than` is `base`.
    """

    alias: str
    has_gate: bool = False
    maximum: float | None = None
    better_than: str | None = None

    def check(self, validation_file: str | None) -> None:
        """Raises InvalidRequest for what can't be decided."""
        check_alias_name(self.alias)
        if not self.has_gate:
            return
        if self.maximum is None and self.better_than is None:
            raise _invalid("A gate needs a 'maximum', or 'better_than': 'base', or both.", "promotion.gate")
        if self.maximum is not None and not (math.isfinite(self.maximum) and self.maximum > 0):
            raise _invalid("'maximum' must be a loss above 0.", "promotion.gate.maximum")
        if self.better_than not in (None, "base"):
            raise _invalid("'better_than' must be 'base'.", "promotion.gate.better_than")
        if validation_file is None:
            raise _invalid("A gate needs a 'validation_file', on which the loss is measured.", "validation_file")

    def failure(self, loss: float | None, base_loss: float | None) -> str:
        """Why a result does not pass; empty where it does."""
        if not self.has_gate:
            return ""
        if loss is None:
            return "its loss on the validation file was not measured"
        if self.maximum is not None and loss > self.maximum:
            return f"its validation loss {loss:.4f} is above {self.maximum:.4f}"
        if self.better_than is not None and base_loss is None:
            return "the base model's loss on the validation file was not measured"
        if base_loss is not None and self.better_than is not None and loss >= base_loss:
            return f"its validation loss {loss:.4f} is not below the base model's {base_loss:.4f}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """As the API has it."""
        if not self.has_gate:
            return {"alias": self.alias, "gate": None}
        gate = {"type": "validation_loss", "maximum": self.maximum, "better_than": self.better_than}
        return {"alias": self.alias, "gate": gate}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Promotion:
        """The inverse of `to_json`."""
        if (gate := document["gate"]) is None:
            return cls(document["alias"])
        return cls(document["alias"], True, gate["maximum"], gate["better_than"])


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
