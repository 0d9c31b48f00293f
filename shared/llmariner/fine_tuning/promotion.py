"""What a job says of its promotion: the alias that moves to its result, and the gate that the result must pass."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.graders.definition import InvalidGrader, read_grader
from llmariner.fine_tuning.graders.grades import Grader
from llmariner.models.alias import check_alias_name

__all__ = ["GATE_GRADER", "GateGrader", "Measured", "Promotion", "gate_grader"]

GATE_GRADER = "promotion.gate.grader"
"""Of the body of a request."""
_MAX_MARGIN = 1e6
_MAX_COMPLETION_TOKENS = 4095


@dataclass(frozen=True)
class GateGrader:
    """A grader that grades answers to the validation file, of the base model and of the result.

    `grader`: in OpenAI's form. `margin`: by how much the result's mean grade must exceed the base model's.
    `max_completion_tokens`: of an answer.
    """

    grader: Mapping[str, Any]
    margin: float = 0.0
    max_completion_tokens: int = 256

    def read(self) -> Grader:
        """The grader. Raises InvalidRequest."""
        try:
            return read_grader(self.grader, GATE_GRADER)
        except InvalidGrader as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_grader") from error

    def check(self) -> None:
        """Raises InvalidRequest for what can't be graded or compared."""
        self.read()
        if not (math.isfinite(self.margin) and 0 <= self.margin <= _MAX_MARGIN):
            raise _invalid(f"'margin' must be from 0 to {_MAX_MARGIN:g}.", "promotion.gate.margin")
        if not 1 <= self.max_completion_tokens <= _MAX_COMPLETION_TOKENS:
            param = "promotion.gate.max_completion_tokens"
            raise _invalid(f"'max_completion_tokens' must be from 1 to {_MAX_COMPLETION_TOKENS}.", param)


@dataclass(frozen=True)
class Measured:
    """What was measured on the validation file: of the result and of the base model. None: it was not."""

    loss: float | None = None
    base_loss: float | None = None
    grade: float | None = None
    base_grade: float | None = None


@dataclass(frozen=True)
class Promotion:
    """An alias to move to the result of a job.

    `has_gate`: only where the loss on the validation file is at most `maximum`, if that is given, and lower than the base
    model's, if `better_than` is `base`; or where the `grader` of the gate, if that is given, prefers the result.
    """

    alias: str
    has_gate: bool = False
    maximum: float | None = None
    better_than: str | None = None
    grader: GateGrader | None = None

    def check(self, validation_file: str | None) -> None:
        """Raises InvalidRequest for what can't be decided."""
        check_alias_name(self.alias)
        if not self.has_gate:
            return
        if self.grader is not None:
            self.grader.check()
        else:
            self._check_loss()
        if validation_file is None:
            what = "the loss is measured" if self.grader is None else "answers are graded"
            raise _invalid(f"A gate needs a 'validation_file', on which {what}.", "validation_file")

    def _check_loss(self) -> None:
        if self.maximum is None and self.better_than is None:
            raise _invalid("A gate needs a 'maximum', or 'better_than': 'base', or both.", "promotion.gate")
        if self.maximum is not None and not (math.isfinite(self.maximum) and self.maximum > 0):
            raise _invalid("'maximum' must be a loss above 0.", "promotion.gate.maximum")
        if self.better_than not in (None, "base"):
            raise _invalid("'better_than' must be 'base'.", "promotion.gate.better_than")

    def failure(self, measured: Measured) -> str:
        """Why a result does not pass; empty where it does."""
        if not self.has_gate:
            return ""
        return self._failure_of_loss(measured) if self.grader is None else self._failure_of_grade(self.grader, measured)

    def _failure_of_loss(self, measured: Measured) -> str:
        loss, base_loss = measured.loss, measured.base_loss
        if loss is None:
            return "its loss on the validation file was not measured"
        if self.maximum is not None and loss > self.maximum:
            return f"its validation loss {loss:.4f} is above {self.maximum:.4f}"
        if self.better_than is not None and base_loss is None:
            return "the base model's loss on the validation file was not measured"
        if base_loss is not None and self.better_than is not None and loss >= base_loss:
            return f"its validation loss {loss:.4f} is not below the base model's {base_loss:.4f}"
        return ""

    @staticmethod
    def _failure_of_grade(gate: GateGrader, measured: Measured) -> str:
        if measured.grade is None or measured.base_grade is None:
            return "its answers to the validation file, or the base model's, were not graded"
        gained = measured.grade - measured.base_grade
        # A margin of 0.1 is reached from 0.2 to 0.3, which floating point numbers do not quite.
        if gained > 0 and (gained >= gate.margin or math.isclose(gained, gate.margin, rel_tol=1e-9)):
            return ""
        by = f" by {gate.margin:g}" if gate.margin else ""
        return f"its mean grade {measured.grade:.4f} does not exceed the base model's {measured.base_grade:.4f}{by}"

    def to_json(self) -> dict[str, Any]:
        """As the API has it."""
        if not self.has_gate:
            return {"alias": self.alias, "gate": None}
        gate: dict[str, Any]
        if self.grader is None:
            gate = {"type": "validation_loss", "maximum": self.maximum, "better_than": self.better_than}
        else:
            gate = {"type": "grader", "grader": dict(self.grader.grader), "margin": self.grader.margin}
            gate["max_completion_tokens"] = self.grader.max_completion_tokens
        return {"alias": self.alias, "gate": gate}

    def to_row(self) -> dict[str, Any]:
        """As the database has it, for `from_json`."""
        document = self.to_json()
        if self.grader is not None:
            # The release before, which runs beside this one for a while, knows no graders: it lets no result pass then.
            document["gate"] |= {"maximum": 0.0, "better_than": None}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Promotion:
        """The inverse of `to_json` and `to_row`."""
        if (gate := document["gate"]) is None:
            return cls(document["alias"])
        if gate.get("type") == "grader":
            grader = GateGrader(gate["grader"], gate["margin"], gate["max_completion_tokens"])
            return cls(document["alias"], True, grader=grader)
        return cls(document["alias"], True, gate["maximum"], gate["better_than"])


def gate_grader(job: Row[Any]) -> GateGrader | None:
    """The grader of the gate of a job, a row of `fine_tuning_jobs`."""
    return None if job.promotion is None else Promotion.from_json(json.loads(job.promotion)).grader


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
