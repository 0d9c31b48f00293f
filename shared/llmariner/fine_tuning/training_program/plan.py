"""What a training job is to do, as the platform tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """`stage`: `check` counts the tokens of the files, `train` trains. Files are URLs, read once.

    `checkpoint`: the state to continue from, None at the beginning; one is saved after each epoch and `checkpoint_seconds`.
    `early_stopping_patience`: epochs in a row without a lower validation loss, after which it stops; None: it never does.
    `measures_base`: whether to report the loss of the base model on the validation file.
    `training_type`: `lora` trains an adapter, `qlora` one for a base model in 4 bits, `full` all weights.
    `batch_size`: examples of one step. `learning_rate`: the highest of the schedule, per step.
    `grader`: of reinforcement, in OpenAI's form, which has `group_size` answers to each line, and evaluates at the end of
    each epoch and after `eval_interval` steps by `eval_samples` answers to each line.
    `gate_grader`: that of a gate, in OpenAI's form. It grades an answer of up to `gate_completion_tokens` to each line of
    the validation file, of the base model and of each checkpoint that may be the result.
    """

    stage: str
    model_folder: str
    training_file: str
    validation_file: str | None = None
    method: str = "supervised"
    context_tokens: int = 2048
    seed: int = 0
    n_epochs: int = 1
    batch_size: int = 1
    learning_rate: float = 2e-4
    beta: float = 0.1
    early_stopping_patience: int | None = None
    measures_base: bool = False
    grader: dict[str, Any] | None = None
    group_size: int = 8
    max_completion_tokens: int = 256
    eval_interval: int | None = None
    eval_samples: int = 1
    gate_grader: dict[str, Any] | None = None
    gate_completion_tokens: int = 256
    training_type: str = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    checkpoint: str | None = None
    checkpoint_seconds: float = 60.0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """The plan of a JSON object; fields that this program does not know are of a later platform and an error."""
        return cls(**document)
