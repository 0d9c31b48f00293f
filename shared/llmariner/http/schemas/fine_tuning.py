"""Fine-tuning over HTTP: the bodies of requests, in OpenAI's form with upstream's fields."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.credentials import NewCredential
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.integrations import Integration
from llmariner.fine_tuning.job import NewFineTuningJob
from llmariner.fine_tuning.promotion import GATE_GRADER, GateGrader, Promotion
from llmariner.http.schemas.bodies import Body
from llmariner.settings import Secret

__all__ = [
    "CompleteResult",
    "CreateCheckpointPermissions",
    "CreateFineTuningJob",
    "GradeAnswer",
    "PutCredential",
    "RunGrader",
    "UploadResult",
    "ValidateGrader",
    "WorkerReport",
]

Auto = Literal["auto"]
_METHODS = ("supervised", "dpo", "reinforcement")
_GPU_METADATA = "resources.gpu"
"""Upstream's other place for the number of GPUs, for clients that can send OpenAI's fields only."""


class _Hyperparameters(Body):
    """Numbers, or `auto`. `early_stopping_patience` and `max_completion_tokens` are ours."""

    n_epochs: int | Auto | None = None
    batch_size: int | Auto | None = None
    learning_rate_multiplier: float | Auto | None = None
    beta: float | Auto | None = None
    early_stopping_patience: int | None = None
    compute_multiplier: float | Auto | None = None
    eval_interval: int | Auto | None = None
    eval_samples: int | Auto | None = None
    max_completion_tokens: int | Auto | None = None
    reasoning_effort: str | None = None

    def to_requested(self, where: str) -> RequestedHyperparameters:
        """What is not said is `auto`. `where`: the field that has them. InvalidRequest for an effort of reasoning."""
        said = {name: value for name, value in self.model_dump().items() if value is not None}
        if said.pop("reasoning_effort", "default") != "default":
            raise InvalidRequest(
                "'reasoning_effort' is not available: models are trained here as they answer by themselves. Leave it out.",
                param=f"{where}.reasoning_effort",
                code="unsupported_parameter",
            )
        return RequestedHyperparameters(**said)


class _MethodSettings(Body):
    """The settings of a method."""

    hyperparameters: _Hyperparameters | None = None


class _ReinforcementSettings(_MethodSettings):
    """The settings of the method `reinforcement`."""

    grader: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class _Method(Body):
    """How to train."""

    type: str
    supervised: _MethodSettings | None = None
    dpo: _MethodSettings | None = None
    reinforcement: _ReinforcementSettings | None = None


class _Wandb(Body):
    """Weights & Biases, as OpenAI has it."""

    project: str
    name: str | None = None
    entity: str | None = None
    tags: list[str] | None = None


class _Mlflow(Body):
    """MLflow. `tracking_uri`: one of the installation's servers; None: its first."""

    experiment: str
    run_name: str | None = None
    tags: dict[str, str] | None = None
    tracking_uri: str | None = None


class _Integration(Body):
    """A service that gets the metrics of the job."""

    type: str
    wandb: _Wandb | None = None
    mlflow: _Mlflow | None = None

    def to_integration(self, where: str) -> Integration:
        """The integration. InvalidRequest unless exactly the settings of its type are there. `where`: its field."""
        said = {name: value for name in ("wandb", "mlflow") if (value := getattr(self, name)) is not None}
        if self.type in ("wandb", "mlflow") and list(said) != [self.type]:
            raise InvalidRequest(
                f"An integration of the type '{self.type}' has its settings in '{self.type}', and no others.",
                param=f"{where}.{self.type}",
                code="invalid_value",
            )
        settings = {} if self.type not in said else said[self.type].model_dump(exclude_none=True)
        return Integration(self.type, settings)


class _Resources(Body):
    """What the job needs."""

    gpu_count: int = Field(default=0, le=1_000_000)
    worker_count: int = 1


class _TrainingType(Body):
    """What of the model is trained: `lora`, `qlora` or `full`. Others are read to be refused with the reason."""

    type: str


class _Gate(Body):
    """What the result must be like: `maximum` and `better_than` of a loss, the others of a grader."""

    type: Literal["validation_loss", "grader"]
    maximum: float | None = None
    better_than: Literal["base"] | None = None
    grader: dict[str, Any] | None = None
    margin: float | None = None
    max_completion_tokens: int | None = None

    def check(self) -> None:
        """Raises InvalidRequest for fields of the other type, and without a grader for one."""
        loss, graded = ("maximum", "better_than"), ("grader", "margin", "max_completion_tokens")
        for name in graded if self.type == "validation_loss" else loss:
            if getattr(self, name) is not None:
                raise InvalidRequest(
                    f"'{name}' does not belong to a gate of the type '{self.type}'.",
                    param=f"promotion.gate.{name}",
                    code="invalid_value",
                )
        if self.type == "grader" and self.grader is None:
            raise InvalidRequest(
                f"A gate of the type 'grader' needs '{GATE_GRADER}', which gives each answer a grade.",
                param=GATE_GRADER,
                code="invalid_value",
            )


class _Promotion(Body):
    """The alias that moves to the result."""

    alias: str
    gate: _Gate | None = None

    def to_promotion(self) -> Promotion:
        """The promotion. InvalidRequest for a gate whose fields do not belong together."""
        if (gate := self.gate) is None:
            return Promotion(self.alias)
        gate.check()
        if gate.grader is None:
            return Promotion(self.alias, True, gate.maximum, gate.better_than)
        grader = GateGrader(gate.grader)
        if gate.margin is not None:
            grader = replace(grader, margin=gate.margin)
        if gate.max_completion_tokens is not None:
            grader = replace(grader, max_completion_tokens=gate.max_completion_tokens)
        return Promotion(self.alias, True, grader=grader)


class CreateFineTuningJob(Body):
    """POST /v1/fine_tuning/jobs."""

    model: str
    training_file: str
    validation_file: str | None = None
    hyperparameters: _Hyperparameters | None = None
    method: _Method | None = None
    suffix: str | None = None
    seed: int | None = None
    metadata: dict[str, str] | None = None
    integrations: list[_Integration] | None = None
    resources: _Resources | None = None
    training_type: _TrainingType | None = None
    promotion: _Promotion | None = None
    cluster_id: str | None = Field(default=None, max_length=64)

    def to_new(self) -> NewFineTuningJob:
        """The job to create. InvalidRequest for what is said in two places."""
        method = "supervised" if self.method is None else self.method.type
        where, said = self._hyperparameters(method)
        metadata = dict(self.metadata or {})
        return NewFineTuningJob(
            model=self.model,
            training_file=self.training_file,
            validation_file=self.validation_file or None,
            method=method,
            hyperparameters=(said or _Hyperparameters()).to_requested(where),
            suffix=self.suffix,
            seed=self.seed,
            gpu_count=self._gpu_count(metadata),
            worker_count=1 if self.resources is None else self.resources.worker_count,
            training_type="lora" if self.training_type is None else self.training_type.type.lower(),
            metadata=metadata,
            integrations=tuple(
                each.to_integration(f"integrations[{number}]") for number, each in enumerate(self.integrations or ())
            ),
            promotion=None if self.promotion is None else self.promotion.to_promotion(),
            grader=self._grader(),
            where=where,
            cluster_id=self.cluster_id or None,
        )

    def _grader(self) -> dict[str, Any] | None:
        settings = None if self.method is None else self.method.reinforcement
        if settings is not None and settings.response_format is not None:
            raise InvalidRequest(
                "'response_format' is not available for the method 'reinforcement': answers are plain texts. Leave it out.",
                param="method.reinforcement.response_format",
                code="unsupported_parameter",
            )
        return None if settings is None else settings.grader

    def _hyperparameters(self, method: str) -> tuple[str, _Hyperparameters | None]:
        """The field that has them, and what it says."""
        for other in _METHODS:
            if self.method is not None and other != method and getattr(self.method, other) is not None:
                raise InvalidRequest(
                    f"'method.{other}' has the settings of another method than 'method.type'.", param=f"method.{other}"
                )
        settings = getattr(self.method, method, None) if method in _METHODS else None
        if settings is None or settings.hyperparameters is None:
            return "hyperparameters", self.hyperparameters
        where = f"method.{method}.hyperparameters"
        if self.hyperparameters is not None:
            raise InvalidRequest(
                f"Send the hyperparameters in '{where}' or in 'hyperparameters', not in both.", param="hyperparameters"
            )
        return where, settings.hyperparameters

    def _gpu_count(self, metadata: dict[str, str]) -> int:
        if (text := metadata.get(_GPU_METADATA)) is None:
            return 0 if self.resources is None else self.resources.gpu_count
        if self.resources is not None:
            raise InvalidRequest(
                f"Send the number of GPUs in 'resources' or in the metadata '{_GPU_METADATA}', not in both.",
                param="resources",
            )
        if not (text.isascii() and text.isdigit() and len(text) < 8):
            raise InvalidRequest(f"The metadata '{_GPU_METADATA}' must be a number of GPUs.", param="metadata")
        return int(text)


class PutCredential(Body):
    """POST /v1/fine_tuning/credentials."""

    type: str
    secret: str
    server: str | None = None
    username: str | None = None

    def to_new(self) -> NewCredential:
        """The credential to set."""
        return NewCredential(self.type, Secret(self.secret), self.server, self.username)


class CreateCheckpointPermissions(Body):
    """POST /v1/fine_tuning/checkpoints/{id}/permissions."""

    project_ids: list[str]


class WorkerReport(Body):
    """POST /v1/fine_tuning/workers/{id}/reports."""

    records: list[dict[str, Any]]


class GradeAnswer(Body):
    """POST /v1/fine_tuning/workers/{id}/grades."""

    item: dict[str, Any]
    output_text: str
    grader: Literal["method", "gate"] = "method"


class ValidateGrader(Body):
    """POST /v1/fine_tuning/alpha/graders/validate."""

    grader: dict[str, Any]


class RunGrader(ValidateGrader):
    """POST /v1/fine_tuning/alpha/graders/run."""

    model_sample: str
    item: dict[str, Any] | None = None


class UploadResult(Body):
    """POST /v1/fine_tuning/workers/{id}/uploads. `in_parts`: what is larger than a part is to be sent in parts."""

    kind: str
    bytes: int
    sha256: str
    in_parts: bool = False


class CompleteResult(Body):
    """POST /v1/fine_tuning/workers/{id}/uploads/{upload_id}/complete."""

    part_ids: list[str]
    sha256: str
