"""A fine-tuning job, and what a caller says about a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.gate_estimate import GateEstimate
from llmariner.fine_tuning.graders.definition import InvalidGrader, read_grader
from llmariner.fine_tuning.graders.grades import Grader
from llmariner.fine_tuning.hyperparameters import Hyperparameters, Method, RequestedHyperparameters
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.promotion import Promotion
from llmariner.platform.jobs import JobStatus, Phase

__all__ = ["GRADER_FIELD", "FineTuningJob", "NewFineTuningJob", "Stage", "Status", "TrainingType"]

_MAX_SEED = 2**31 - 1
_MAX_METADATA, _MAX_METADATA_KEY, _MAX_METADATA_VALUE = 16, 64, 512
_MAX_WORKERS = 8
GRADER_FIELD = "method.reinforcement.grader"
"""Of the body of a request."""


class TrainingType(StrEnum):
    """What of a model is trained: an adapter, one for weights in 4 bits, or all weights."""

    LORA = "lora"
    QLORA = "qlora"
    FULL = "full"


_SUFFIX = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class Status(StrEnum):
    """OpenAI's states, and `paused`."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class Stage(StrEnum):
    """What a job's process does: count the tokens of the files, or train."""

    CHECK = "check"
    TRAIN = "train"


_STARTED: dict[Stage, str] = {
    Stage.CHECK: "The tokens of its files are counted.",
    Stage.TRAIN: "It has its turn, and loads its files and its model.",
}
"""Why a job waits whose process runs already."""


@dataclass(frozen=True)
class NewFineTuningJob:
    """A job to create. `method`: a text, since unknown ones are refused with a reason. `seed` None: a random one.

    `where`: the field of the request that has the hyperparameters, for errors. `training_type`: a text, as `method`.
    `grader`: of the method `reinforcement`, in OpenAI's form. `cluster_id`: the one cluster on which it shall run; None: any
    of the project's.
    """

    model: str
    training_file: str
    validation_file: str | None = None
    method: str = Method.SUPERVISED.value
    hyperparameters: RequestedHyperparameters = field(default_factory=RequestedHyperparameters)
    suffix: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    integrations: tuple[Integration, ...] = ()
    promotion: Promotion | None = None
    gpu_count: int = 0
    worker_count: int = 1
    training_type: str = TrainingType.LORA.value
    grader: Mapping[str, Any] | None = None
    where: str = "hyperparameters"
    cluster_id: str | None = None

    def check(self) -> None:
        """Raises InvalidRequest for what no job may have, or cannot be done here."""
        if self.method not in list(Method):
            raise InvalidRequest(
                f"'method.type' must be one of {', '.join(Method)}, not '{self.method[:64]}'.",
                param="method.type",
                code="invalid_value",
            )
        self.hyperparameters.check(self.where)
        for name in self.hyperparameters.of_other_methods(Method(self.method)):
            raise InvalidRequest(
                f"'{name}' does not belong to the method '{self.method}'.",
                param=f"{self.where}.{name}",
                code="invalid_value",
            )
        self.read_grader()
        if self.hyperparameters.early_stopping_patience is not None and self.validation_file is None:
            raise InvalidRequest(
                "'early_stopping_patience' needs a 'validation_file', whose loss says when to stop.",
                param=f"{self.where}.early_stopping_patience",
                code="invalid_value",
            )
        if self.promotion is not None:
            self.promotion.check(self.validation_file)
            if self.promotion.has_gate and self.promotion.grader is None and self.method == Method.REINFORCEMENT:
                raise InvalidRequest(
                    "The method 'reinforcement' has no loss that a gate could look at: send a gate of the type 'grader'.",
                    param="promotion.gate",
                    code="invalid_value",
                )
        self._check_names()
        self._check_metadata()
        self._check_training_type()
        self._check_place()

    def read_grader(self) -> Grader | None:
        """The grader; None of other methods than `reinforcement`. Raises InvalidRequest."""
        if self.method != Method.REINFORCEMENT:
            return None
        if self.grader is None:
            raise InvalidRequest(
                "The method 'reinforcement' needs 'method.reinforcement.grader', which gives each answer a reward.",
                param=GRADER_FIELD,
                code="invalid_value",
            )
        try:
            return read_grader(self.grader, GRADER_FIELD)
        except InvalidGrader as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_grader") from error

    def _check_names(self) -> None:
        if self.suffix is not None and not _SUFFIX.fullmatch(self.suffix):
            raise InvalidRequest(
                "'suffix' must be 1 to 64 letters, digits, '.', '_' or '-', the first and the last a letter or a digit.",
                param="suffix",
                code="invalid_value",
            )
        if self.seed is not None and not 0 <= self.seed <= _MAX_SEED:
            raise InvalidRequest(f"'seed' must be from 0 to {_MAX_SEED}.", param="seed", code="invalid_value")
        if self.validation_file == self.training_file:
            raise InvalidRequest(
                "The validation file must be another file than the training file: a model knows what it was trained on.",
                param="validation_file",
                code="invalid_value",
            )

    def _check_metadata(self) -> None:
        if len(self.metadata) > _MAX_METADATA:
            raise InvalidRequest(
                f"'metadata' has {_MAX_METADATA} pairs at most, not {len(self.metadata)}.", param="metadata"
            )
        for name, value in self.metadata.items():
            if not 0 < len(name) <= _MAX_METADATA_KEY or len(value) > _MAX_METADATA_VALUE or "\0" in name + value:
                raise InvalidRequest(
                    f"A name of 'metadata' has 1 to {_MAX_METADATA_KEY} characters and a value up to "
                    f"{_MAX_METADATA_VALUE}, without NUL.",
                    param="metadata",
                )

    def _check_training_type(self) -> None:
        if self.training_type == TrainingType.FULL:
            self._check_full()
        elif self.training_type not in list(TrainingType):
            raise InvalidRequest(
                f"'training_type.type' must be one of {', '.join(TrainingType)}, not '{self.training_type[:64]}'.",
                param="training_type.type",
                code="invalid_value",
            )

    def _check_full(self) -> None:
        if self.method != Method.SUPERVISED:
            raise InvalidRequest(
                f"The method '{self.method}' compares a model with its base, for which it needs an adapter: send "
                "'training_type' 'lora', or the method 'supervised'.",
                param="training_type.type",
                code="unsupported_training_type",
            )

    def _check_place(self) -> None:
        if not 1 <= self.worker_count <= _MAX_WORKERS:
            raise InvalidRequest(
                f"'resources.worker_count' must be from 1 to {_MAX_WORKERS}.",
                param="resources.worker_count",
                code="invalid_value",
            )
        if self.gpu_count < 0:
            raise InvalidRequest("'resources.gpu_count' must not be negative.", param="resources.gpu_count")
        if self.gpu_count > 0:
            raise InvalidRequest(
                "Fine-tuning jobs of this installation run on processors: send 'resources.gpu_count' 0.",
                param="resources.gpu_count",
                code="no_gpu",
            )


@dataclass(frozen=True)
class FineTuningJob:
    """A fine-tuning job. Times are Unix seconds. `place` and `reason`: of a queued one, its place in line and why it waits.

    `hyperparameters`, `estimate_seconds` and `estimate_cost`: None before the files are checked. Costs are nano-dollars:
    `cost` of the tokens trained so far, `estimate_cost` of all. `estimate_gate`: the part of the answers for a gate.
    `fine_tuned_model`: None before it has succeeded.
    `cluster_id`: of the worker cluster that runs it; None: none does. `cluster_name`: None also for one that is gone.
    """

    id: str
    organization_id: str
    project_id: str
    organization_title: str
    project_title: str
    model: str
    training_file: str
    validation_file: str | None
    method: Method
    requested: RequestedHyperparameters
    hyperparameters: Hyperparameters | None
    seed: int
    suffix: str | None
    metadata: Mapping[str, str]
    integrations: Sequence[Integration]
    status: Status
    error_code: str | None
    error_param: str | None
    error_message: str | None
    examples: int | None
    tokens: int | None
    step: int
    total_steps: int | None
    tokens_per_second: float | None
    output_model: str
    result_file: str | None
    trained_tokens: int
    cost: int
    estimate_seconds: float | None
    estimate_cost: int | None
    estimate_gate: GateEstimate | None
    created_at: int
    started_at: float | None
    finished_at: float | None
    pause_requested_at: float | None
    worker_count: int
    promotion: Promotion | None
    promotion_result: Mapping[str, Any] | None
    grader: Mapping[str, Any] | None = None
    training_type: TrainingType = TrainingType.LORA
    cluster_id: str | None = None
    cluster_name: str | None = None
    place: int | None = None
    reason: str = ""

    @classmethod
    def from_row(cls, row: Row[Any], live: JobStatus | None = None) -> FineTuningJob:
        """The job of a row of `load_job`, with what the jobs port says of one that waits."""
        fields = {name: row._mapping[name] for name in cls.__dataclass_fields__ if name in row._mapping}
        decoded = {
            "method": Method(row.method),
            "status": Status(row.status),
            "requested": RequestedHyperparameters.from_json(json.loads(row.requested)),
            "hyperparameters": None
            if row.hyperparameters is None
            else Hyperparameters(**json.loads(row.hyperparameters)),
            "metadata": json.loads(row.metadata),
            "worker_count": row.worker_count or 1,
            "training_type": TrainingType(row.training_type or TrainingType.LORA),
            "promotion": None if row.promotion is None else Promotion.from_json(json.loads(row.promotion)),
            "promotion_result": None if row.promotion_result is None else json.loads(row.promotion_result),
            "grader": None if row.grader is None else json.loads(row.grader),
            "estimate_gate": None if row.estimate_gate is None else GateEstimate(**json.loads(row.estimate_gate)),
            "integrations": [Integration(**each) for each in json.loads(row.integrations or "[]")],
        }
        in_line: dict[str, Any] = {}
        if live is not None and live.phase is Phase.QUEUED:
            in_line = {"place": live.place, "reason": live.reason}
        elif live is not None and live.phase is Phase.RUNNING:
            in_line = {"reason": _STARTED[Stage(row.stage)]}
        return cls(**{**fields, **decoded, **in_line})

    @property
    def fine_tuned_model(self) -> str | None:
        """The name of the result; None before the job has succeeded."""
        return self.output_model if self.status is Status.SUCCEEDED else None

    @property
    def estimated_tokens(self) -> int | None:
        """All tokens of all epochs; None before the files are checked."""
        if self.tokens is None or self.hyperparameters is None:
            return None
        return self.tokens * self.hyperparameters.n_epochs

    @property
    def seconds_left(self) -> float | None:
        """How long what is left takes at the speed that was seen; None where none was."""
        if self.estimated_tokens is None or not self.tokens_per_second or self.status.is_final:
            return None
        left = max(0, self.estimated_tokens - self.trained_tokens) / self.tokens_per_second
        return left + (0 if self.estimate_gate is None else self.estimate_gate.seconds_left(self.step))
