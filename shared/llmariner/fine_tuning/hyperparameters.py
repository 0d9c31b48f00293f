"""Hyperparameters: what a caller may say, and the numbers that `auto` stands for.

The learning rate is OpenAI's: a multiplier of a base rate, which depends on the method and the size of the model
(docs/fine-tuning.md lists the rates). A multiplier is never a rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from llmariner.errors import InvalidRequest

__all__ = ["Hyperparameters", "Method", "RequestedHyperparameters", "base_learning_rate", "explored", "resolve"]

Auto = Literal["auto"]
_BYTES_PER_PARAMETER = 2
_MAX_EPOCHS, _MAX_BATCH = 50, 256
_MAX_MULTIPLIER, _MAX_BETA = 10.0, 2.0
_MAX_PATIENCE = 50
_AUTO_EPOCHS, _AUTO_MAX_EPOCHS = 3, 25
_AUTO_MIN_EXAMPLES, _AUTO_MAX_EXAMPLES = 100, 25_000
_AUTO_BETA, _AUTO_REINFORCEMENT_BETA = 0.1, 0.02
_BASE_RATES = ((0.5e9, 1e-3), (2e9, 4e-4), (15e9, 2e-4), (float("inf"), 1e-4))
"""(Parameters below which, rate) of supervised training of an adapter."""
_PREFERENCE_SHARE = 0.1
"""Preferences and rewards move a model much further by the same rate: it then answers with rubbish."""
_GROUP, _MAX_GROUP = 8, 64
"""Answers to each line of a step, for the compute multiplier 1."""
_AUTO_COMPLETION_TOKENS, _MAX_COMPLETION_TOKENS = 256, 4095
_MAX_EVAL_INTERVAL, _MAX_EVAL_SAMPLES = 10_000, 10


class Method(StrEnum):
    """OpenAI's methods that are trained here."""

    SUPERVISED = "supervised"
    DPO = "dpo"
    REINFORCEMENT = "reinforcement"


@dataclass(frozen=True)
class RequestedHyperparameters:
    """As a caller says them. `beta`: not of `supervised`. InvalidRequest for a value that is out of range.

    `early_stopping_patience`: ours; epochs in a row without a lower validation loss, after which the job stops. None: none.
    What follows it is of `reinforcement`; `max_completion_tokens`, of an answer, is ours.
    """

    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    beta: float | Auto = "auto"
    early_stopping_patience: int | None = None
    compute_multiplier: float | Auto = "auto"
    eval_interval: int | Auto = "auto"
    eval_samples: int | Auto = "auto"
    max_completion_tokens: int | Auto = "auto"

    def check(self, where: str) -> None:
        """`where`: the field that they are in, for errors."""
        _check_number(self.n_epochs, 1, _MAX_EPOCHS, f"{where}.n_epochs")
        _check_number(self.batch_size, 1, _MAX_BATCH, f"{where}.batch_size")
        _check_number(self.learning_rate_multiplier, 0.0, _MAX_MULTIPLIER, f"{where}.learning_rate_multiplier")
        _check_number(self.beta, 0.0, _MAX_BETA, f"{where}.beta")
        _check_number(self.compute_multiplier, 0.0, _MAX_MULTIPLIER, f"{where}.compute_multiplier")
        _check_number(self.eval_interval, 1, _MAX_EVAL_INTERVAL, f"{where}.eval_interval")
        _check_number(self.eval_samples, 1, _MAX_EVAL_SAMPLES, f"{where}.eval_samples")
        _check_number(self.max_completion_tokens, 1, _MAX_COMPLETION_TOKENS, f"{where}.max_completion_tokens")
        if self.early_stopping_patience is not None:
            _check_number(self.early_stopping_patience, 1, _MAX_PATIENCE, f"{where}.early_stopping_patience")

    def to_json(self) -> dict[str, object]:
        """A JSON object that `from_json` reads. What is not of every method is in it where it was said."""
        return {name: value for name, value in asdict(self).items() if name not in _REINFORCEMENT or value != "auto"}

    def of_other_methods(self, method: Method) -> list[str]:
        """The fields that were said and do not belong to a method."""
        others = (
            set(_REINFORCEMENT) - {"group_size"} if method is not Method.REINFORCEMENT else {"early_stopping_patience"}
        )
        others |= {"beta"} if method is Method.SUPERVISED else set()
        return [name for name in sorted(others) if getattr(self, name) not in ("auto", None)]

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> RequestedHyperparameters:
        """What `to_json` returned."""
        return cls(**document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that a job trains with. `learning_rate`: base rate times multiplier.

    Those after `early_stopping_patience` are of `reinforcement`. `eval_interval` None: at the end of each epoch alone.
    """

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    beta: float
    early_stopping_patience: int | None = None
    compute_multiplier: float | None = None
    group_size: int | None = None
    eval_interval: int | None = None
    eval_samples: int | None = None
    max_completion_tokens: int | None = None

    def to_json(self) -> dict[str, object]:
        """A JSON object of what the method has."""
        return {name: value for name, value in asdict(self).items() if name not in _REINFORCEMENT or value is not None}


_REINFORCEMENT = ("compute_multiplier", "group_size", "eval_interval", "eval_samples", "max_completion_tokens")

_FULL_SHARE = 0.1


def base_learning_rate(method: Method, weight_bytes: int) -> float:
    """The rate that the multiplier 1 stands for. `weight_bytes`: of a model with two bytes per parameter."""
    parameters = weight_bytes / _BYTES_PER_PARAMETER
    rate = next(rate for below, rate in _BASE_RATES if parameters < below)
    return rate if method is Method.SUPERVISED else rate * _PREFERENCE_SHARE


def resolve(
    requested: RequestedHyperparameters, method: Method, *, examples: int, weight_bytes: int, trains_all: bool = False
) -> Hyperparameters:
    """The numbers for a file of so many examples. `trains_all`: all weights, which a tenth of the rate changes as much."""
    multiplier = _number(requested.learning_rate_multiplier, 1.0)
    return Hyperparameters(
        n_epochs=int(_number(requested.n_epochs, _auto_epochs(examples))),
        batch_size=int(_number(requested.batch_size, _auto_batch_size(examples))),
        learning_rate_multiplier=multiplier,
        learning_rate=multiplier * base_learning_rate(method, weight_bytes) * (_FULL_SHARE if trains_all else 1.0),
        beta=_number(requested.beta, _AUTO_REINFORCEMENT_BETA if method is Method.REINFORCEMENT else _AUTO_BETA),
        early_stopping_patience=requested.early_stopping_patience,
        **(_of_reinforcement(requested) if method is Method.REINFORCEMENT else {}),
    )


def explored(requested: RequestedHyperparameters) -> tuple[int, int]:
    """Of `reinforcement`: the answers to each line, and the most tokens that one has."""
    group = round(_GROUP * _number(requested.compute_multiplier, 1.0))
    return min(_MAX_GROUP, max(2, group)), int(_number(requested.max_completion_tokens, _AUTO_COMPLETION_TOKENS))


def _of_reinforcement(requested: RequestedHyperparameters) -> dict[str, Any]:
    group, tokens = explored(requested)
    interval = requested.eval_interval
    return {
        "compute_multiplier": _number(requested.compute_multiplier, 1.0),
        "group_size": group,
        "eval_interval": None if isinstance(interval, str) else interval,
        "eval_samples": int(_number(requested.eval_samples, 1)),
        "max_completion_tokens": tokens,
    }


def _auto_epochs(examples: int) -> int:
    """Three, more of a small file and fewer of a large one: the rule of OpenAI's cookbook for data preparation."""
    if examples * _AUTO_EPOCHS < _AUTO_MIN_EXAMPLES:
        return min(_AUTO_MAX_EPOCHS, _AUTO_MIN_EXAMPLES // max(1, examples))
    if examples * _AUTO_EPOCHS > _AUTO_MAX_EXAMPLES:
        return max(1, _AUTO_MAX_EXAMPLES // examples)
    return _AUTO_EPOCHS


def _auto_batch_size(examples: int) -> int:
    """0.2 % of the examples, but 4 to 32: a step of one example is mostly noise, and one of hundreds is slow."""
    return min(32, max(4, round(examples * 0.002)))


def _number(value: float | str, automatic: float) -> float:
    return automatic if isinstance(value, str) else value


def _check_number(value: float | str, least: float, most: float, param: str) -> None:
    if isinstance(value, str):
        if value != "auto":
            raise InvalidRequest(f"'{param}' must be a number or 'auto'.", param=param, code="invalid_value")
        return
    # Rates and betas must not be zero, counts start at one.
    in_range = least <= value <= most if least else 0.0 < value <= most
    if not in_range:
        said = f"from {least:g} to {most:g}" if least else f"above 0 and at most {most:g}"
        raise InvalidRequest(f"'{param}' must be {said}.", param=param, code="invalid_value")
