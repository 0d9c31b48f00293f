"""An alias of a model, its revisions, and a change of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from llmariner.errors import InvalidRequest

__all__ = ["MAX_REASON", "Alias", "AliasChange", "AliasRevision", "Cause", "check_alias_name"]

MAX_REASON = 512
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")


class Cause(StrEnum):
    """What changed an alias. `promoted`: a fine-tuning job whose result passed its gate."""

    CREATED = "created"
    MOVED = "moved"
    ROLLED_BACK = "rolled_back"
    PROMOTED = "promoted"
    DELETED = "deleted"


@dataclass(frozen=True)
class Alias:
    """An alias and the name of its model. `revision`: the number of its last change. Times are Unix seconds."""

    name: str
    model: str
    revision: int
    created_at: int
    updated_at: float

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the API."""
        return {
            "id": self.name,
            "object": "model_alias",
            "model": self.model,
            "revision": self.revision,
            "created_at": self.created_at,
            "updated_at": int(self.updated_at),
        }


@dataclass(frozen=True)
class AliasRevision:
    """One change: `model` None is a deletion, `previous_model` None a creation. `key_id` None: a signed-in person."""

    number: int
    model: str | None
    previous_model: str | None
    at: float
    cause: Cause
    reason: str
    user_id: str
    key_id: str | None
    fine_tuning_job_id: str | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of the API."""
        return {
            "object": "model_alias.revision",
            "revision": self.number,
            "model": self.model,
            "previous_model": self.previous_model,
            "created_at": int(self.at),
            "cause": self.cause.value,
            "reason": self.reason,
            "user_id": self.user_id,
            "key_id": self.key_id,
            "fine_tuning_job_id": self.fine_tuning_job_id,
        }


@dataclass(frozen=True)
class AliasChange:
    """A change to make. `expected_revision`: the last one that the caller saw; None: any."""

    name: str
    cause: Cause
    reason: str
    expected_revision: int | None = None
    fine_tuning_job_id: str | None = None


def check_alias_name(name: str) -> None:
    """Raises InvalidRequest for a name that no alias may have; what separates the parts of models' ids is none of it."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            "An alias has 1 to 128 letters, digits, '.', '_' or '-', the first and the last a letter or a digit.",
            param="alias",
            code="invalid_value",
        )
