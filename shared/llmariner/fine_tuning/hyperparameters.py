"""Hyperparameters: what a caller may say, and the numbers that `auto` stands for.

The learning rate is OpenAI's: a multiplier of a base rate, which depends on the method and the size of the model
(docs/fine-tuning.md lists the rates). A multiplier is never a rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal

from llmariner.errors import InvalidRequest

__all__ = ["Hyperparameters", "Method", "RequestedHyperparameters", "base_learning_rate", "resolve"]

Auto = Literal["auto"]
_BYTES_PER_PARAMETER = 2
_MAX_EPOCHS, _MAX_BATCH = 50, 256
_MAX_MULTIPLIER, _MAX_BETA = 10.0, 2.0
_MAX_PATIENCE = 50
_AUTO_EPOCHS, _AUTO_MAX_EPOCHS = 3, 25
_AUTO_MIN_EXAMPLES, _AUTO_MAX_EXAMPLES = 100, 25_000
_AUTO_BETA = 0.1
_BASE_RATES = ((0.5e9, 1e-3), (2e9, 4e-4), (15e9, 2e-4), (float("inf"), 1e-4))
"""(Parameters below which, rate) of supervised training of an adapter."""
_PREFERENCE_SHARE = 0.1
"""Preferences move a model much further by the same rate: it then answers with rubbish."""


class Method(StrEnum):
    """OpenAI's methods that are trained here."""

    SUPERVISED = "supervised"
    DPO = "dpo"


@dataclass(frozen=True)
class RequestedHyperparameters:
    """As a caller says them. `beta`: of preferences only. InvalidRequest for a value that is out of range.

    `early_stopping_patience`: ours; epochs in a row without a lower validation loss, after which the job stops. None: none.
    """

    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    beta: float | Auto = "auto"
    early_stopping_patience: int | None = None

    def check(self, where: str) -> None:
        """`where`: the field that they are in, for errors."""
        _check_number(self.n_epochs, 1, _MAX_EPOCHS, f"{where}.n_epochs")
        _check_number(self.batch_size, 1, _MAX_BATCH, f"{where}.batch_size")
        _check_number(self.learning_rate_multiplier, 0.0, _MAX_MULTIPLIER, f"{where}.learning_rate_multiplier")
        _check_number(self.beta, 0.0, _MAX_BETA, f"{where}.beta")
        if self.early_stopping_patience is not None:
            _check_number(self.early_stopping_patience, 1, _MAX_PATIENCE, f"{where}.early_stopping_patience")

    def to_json(self) -> dict[str, object]:
        """A JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, object]) -> RequestedHyperparameters:
        """What `to_json` returned."""
        return cls(**document)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers that a job trains with. `learning_rate`: base rate times multiplier."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    learning_rate: float
    beta: float
    early_stopping_patience: int | None = None


def base_learning_rate(method: Method, weight_bytes: int) -> float:
    """The rate that the multiplier 1 stands for. `weight_bytes`: of a model with two bytes per parameter."""
    parameters = weight_bytes / _BYTES_PER_PARAMETER
    rate = next(rate for below, rate in _BASE_RATES if parameters < below)
    return rate if method is Method.SUPERVISED else rate * _PREFERENCE_SHARE


def resolve(
    requested: RequestedHyperparameters, method: Method, *, examples: int, weight_bytes: int
) -> Hyperparameters:
    """The numbers for a file of so many examples."""
    multiplier = _number(requested.learning_rate_multiplier, 1.0)
    return Hyperparameters(
        n_epochs=int(_number(requested.n_epochs, _auto_epochs(examples))),
        batch_size=int(_number(requested.batch_size, _auto_batch_size(examples))),
        learning_rate_multiplier=multiplier,
        learning_rate=multiplier * base_learning_rate(method, weight_bytes),
        beta=_number(requested.beta, _AUTO_BETA),
        early_stopping_patience=requested.early_stopping_patience,
    )


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
