"""Trains an adapter or all weights: steps, validation, states to continue from, and the same numbers for the same seed."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from llmariner.fine_tuning.training_program.batch_result import BatchResult, Objective
from llmariner.fine_tuning.training_program.batches import batches, steps_of
from llmariner.fine_tuning.training_program.examples import Example
from llmariner.fine_tuning.training_program.graded_answers import HeldOutGrades
from llmariner.fine_tuning.training_program.plan import Plan
from llmariner.fine_tuning.training_program.platform import NoGrades, Platform
from llmariner.fine_tuning.training_program.quantized_model import load_quantized
from llmariner.fine_tuning.training_program.state import load_state, save_adapter, save_state
from llmariner.fine_tuning.training_program.stopping_rule import EarlyStopping
from llmariner.fine_tuning.training_program.whole_model import save_model
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

__all__ = ["Trainer"]

_WARM_UP_SHARE = 0.03
_GRADIENT_NORM = 1.0
_VALIDATION_BATCH = 8
"""Examples of the validation file that a step looks at; an epoch's end looks at all."""
_LOSS_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_accuracy",
    "valid_loss": "valid_loss",
    "valid_accuracy": "valid_mean_token_accuracy",
}
"""Of the file with the metrics, by their names in reports."""
_REWARD_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_reward": "train_reward_mean",
    "valid_reward": "valid_reward_mean",
    "kl_divergence": "kl_divergence",
    "completion_tokens": "completion_tokens_mean",
    "grader_errors": "grader_error_rate",
}


class Trainer:
    """One run of a job, from its beginning or its last state to its end or a pause. `work`: a folder for its files.

    Every worker of the group runs one with the same arguments. The first one alone reports, and what it uploads is what all
    of them have.
    """

    def __init__(
        self,
        plan: Plan,
        platform: Platform,
        objective: Objective,
        training: Sequence[Example],
        validation: Sequence[Example],
        work: Path,
        group: WorkerGroup,
        gate: HeldOutGrades | None = None,
    ) -> None:
        self._plan = plan
        self._platform = platform
        self._training = training
        self._validation = validation
        self._work = work
        self._group = group
        self._objective = objective
        self._gate = gate
        self._columns = _LOSS_COLUMNS if plan.grader is None else _REWARD_COLUMNS
        self._early_stopping = EarlyStopping(plan.early_stopping_patience)
        self._per_epoch = steps_of(len(training), plan.batch_size)
        self._total = self._per_epoch * plan.n_epochs
        torch.manual_seed(plan.seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._model = self._make_model()
        parameters = [each for each in self._model.parameters() if each.requires_grad]
        self._parameters = parameters
        self._optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.0, foreach=False)
        self._rows: list[list[Any]] = []
        self._trained_tokens = 0
        self._step = 0
        self._base_loss: float | None = None
        self._base_grade: float | None = None
        self._epoch_is_open = False
        self._validated: BatchResult | None = None
        self._validated_step = 0
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train to the end, or until the platform asks for a pause; reports all of it."""
        if self._plan.checkpoint is not None:
            self._load(self._platform.fetch("checkpoint", self._plan.checkpoint, self._work / "state.safetensors"))
            (self._work / "state.safetensors").unlink()  # each worker has one, and all share the disk of one machine
        self._report({"type": "training", "step": self._step, "total_steps": self._total}, now=True)
        try:
            self._measure_base()
            if self._epoch_is_open:
                self._end_epoch()
        except NoGrades as error:
            self._pause(reason=str(error))
            return
        self._train()

    def _measure_base(self) -> None:
        """Measure the base model for the gate: before the first step nothing is trained. Raises NoGrades."""
        if self._step > 0:
            return
        if self._plan.measures_base:
            self._base_loss = self._objective.evaluate(self._model, self._validation, 0).measures["loss"]
        if self._gate is not None and self._base_grade is None:
            self._base_grade = self._gate.mean(self._model, self._step, self._save_state_if_due)

    def _train(self) -> None:
        plan = self._plan
        for step, indexes in batches(len(self._training), plan.batch_size, plan.n_epochs, plan.seed, after=self._step):
            if self._early_stopping.is_due:
                break
            if self._group.any(self._platform.pause_requested):
                self._pause()
                return
            try:
                self._take_step(step, [self._training[index] for index in indexes])
                if step % self._per_epoch == 0:
                    self._end_epoch()
                    self._saved_at = time.monotonic()
            except NoGrades as error:
                self._optimizer.zero_grad(set_to_none=True)
                self._pause(reason=str(error))
                return
            self._save_state_if_due()
        self._finish()

    def _pause(self, **why: str) -> None:
        self._save_state()
        self._report({"type": "paused", "step": self._step, **why}, now=True)

    def _report(self, record: dict[str, Any], *, now: bool = False) -> None:
        if self._group.is_first:
            self._platform.report(record, now=now)

    def _make_model(self) -> Any:
        plan = self._plan
        base = load_quantized(Path(plan.model_folder)) if plan.training_type == "qlora" else _load(plan.model_folder)
        base.config.use_cache = False
        if plan.training_type == "full":
            base.train()
            return base
        config = LoraConfig(
            r=plan.lora_rank,
            lora_alpha=plan.lora_alpha,
            # The reference of preferences and rewards is the model without its adapter, so dropout would be noise in it.
            lora_dropout=plan.lora_dropout if plan.method == "supervised" else 0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(base, config)
        model.train()
        return model

    def _take_step(self, step: int, batch: Sequence[Example]) -> None:
        plan, began = self._plan, time.monotonic()
        rate = plan.learning_rate * self._schedule(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        result = self._objective.learn(self._model, batch, step)
        torch.nn.utils.clip_grad_norm_(self._parameters, _GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step = step
        self._trained_tokens += result.tokens
        seconds = max(1e-6, time.monotonic() - began)
        valid = self._validate_part(step)
        record = {
            "type": "step",
            "step": step,
            **result.measured("train"),
            **result.others,
            "learning_rate": rate,
            "tokens_per_second": result.tokens / seconds,
            "trained_tokens": self._trained_tokens,
            **(valid.measured("valid") if valid else {}),
        }
        self._rows.append([record.get(name, "") for name in self._columns])
        self._report(record)

    def _schedule(self, step: int) -> float:
        """A linear rise, then a linear fall to zero after the last step."""
        warm_up = max(1, round(_WARM_UP_SHARE * self._total))
        if step <= warm_up:
            return step / warm_up
        return (self._total - step + 1) / max(1, self._total - warm_up + 1)

    def _validate_part(self, step: int) -> BatchResult | None:
        if not self._validation:
            return None
        if self._plan.grader is not None:
            interval = self._plan.eval_interval or self._per_epoch
            due = step % interval == 0 or step % self._per_epoch == 0
            return self._validate_all() if due else None
        first = (step - 1) * _VALIDATION_BATCH % len(self._validation)
        part = [*self._validation, *self._validation][first : first + min(_VALIDATION_BATCH, len(self._validation))]
        return self._objective.evaluate(self._model, part, step)

    def _validate_all(self) -> BatchResult | None:
        """The result on the whole validation file; None without one, or without its grades."""
        if self._validated_step != self._step:
            self._validated_step, self._validated = self._step, None
            try:
                if self._validation:
                    self._validated = self._objective.evaluate(self._model, self._validation, self._step)
            except NoGrades as error:  # the step is taken, and the next one asks again
                print(f"No validation after step {self._step}: {error}", file=sys.stderr)
        return self._validated

    def _end_epoch(self) -> None:
        """A checkpoint that can be served, and a state to continue from. Raises NoGrades, and is called again then."""
        full, self._epoch_is_open = self._validate_all(), True
        graded = self._grade(full)
        self._epoch_is_open = False
        if full is not None and "loss" in full.measures:
            self._early_stopping.note(self._step, full.measures["loss"])
        if not self._group.is_first:
            return
        record = {
            "type": "checkpoint",
            "step": self._step,
            "file_id": self._upload_result(),
            **(full.measured("full_valid") if full else {}),
            **graded,
        }
        self._report(record, now=True)
        if self._step < self._total:
            self._save_state()

    def _grade(self, full: BatchResult | None) -> dict[str, float]:
        """What a gate compares, of a checkpoint that may be the result. Raises NoGrades."""
        if self._gate is None or self._base_grade is None:
            return {}
        loss = None if full is None else full.measures.get("loss")
        if self._plan.early_stopping_patience is None:
            may_be_result = self._step == self._total
        else:
            may_be_result = loss is not None and self._early_stopping.is_best(loss)
        if not may_be_result:
            return {}
        grade = self._gate.mean(self._model, self._step, self._save_state_if_due)
        return {} if grade is None else {"full_valid_grade": grade, "base_valid_grade": self._base_grade}

    def _upload_result(self) -> str:
        """The id of the file with what was trained, as an engine loads it."""
        if self._plan.training_type == "full":
            archive = self._work / "model.tar"
            save_model(self._model, Path(self._plan.model_folder), archive)
            return self._platform.upload(archive, "model")
        adapter = self._work / "adapter_model.safetensors"
        save_adapter(self._model, adapter)
        return self._platform.upload(adapter, "adapter")

    def _save_state_if_due(self) -> None:
        if time.monotonic() - self._saved_at > self._plan.checkpoint_seconds:
            self._save_state()
            self._saved_at = time.monotonic()

    def _save_state(self) -> None:
        if not self._group.is_first:
            return
        path = self._work / "state.safetensors"
        position = {
            "step": self._step,
            "trained_tokens": self._trained_tokens,
            "rows": self._rows,
            "base_loss": self._base_loss,
            "base_grade": self._base_grade,
            "gate": self._gate.to_json() if self._gate is not None else None,
            "epoch_is_open": self._epoch_is_open,
            "early_stopping": self._early_stopping.to_json(),
        }
        save_state(path, self._model, self._optimizer, position)
        record = {
            "type": "state",
            "step": self._step,
            "file_id": self._platform.upload(path, "state"),
            **({} if self._gate is None else {"graded": self._gate.graded(self._step)}),
        }
        self._report(record, now=True)

    def _load(self, path: Path) -> None:
        position = load_state(path, self._model, self._optimizer)
        self._step, self._trained_tokens = position["step"], position["trained_tokens"]
        self._rows, self._early_stopping = position["rows"], EarlyStopping(**position["early_stopping"])
        # A state of the release before has none of these.
        self._base_loss, self._base_grade = position.get("base_loss"), position.get("base_grade")
        self._epoch_is_open = position.get("epoch_is_open", False)
        if self._gate is not None and (gate := position.get("gate")) is not None:
            self._gate.restore(gate)

    def _finish(self) -> None:
        if not self._group.is_first:
            return
        metrics = self._work / "metrics.csv"
        with metrics.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(self._columns.values())
            writer.writerows(self._rows)
        chooses = self._plan.early_stopping_patience is not None
        record = {
            "type": "finished",
            "step": self._step,
            "trained_tokens": self._trained_tokens,
            "file_id": self._platform.upload(metrics, "metrics"),
            **({"best_step": self._early_stopping.best_step} if chooses else {}),
            **({} if self._base_loss is None else {"base_valid_loss": self._base_loss}),
            **({"gate_problem": self._gate.problem} if self._gate is not None and self._gate.problem else {}),
        }
        self._report(record, now=True)


def _load(folder: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
