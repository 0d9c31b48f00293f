"""What `auto` and the multiplier stand for."""

from __future__ import annotations

import pytest

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.hyperparameters import (
    Method,
    RequestedHyperparameters,
    base_learning_rate,
    resolve,
)

SMALL, LARGE = 270_000_000, 140_000_000_000
"""Bytes of weights: 135 million and 70 billion parameters."""


@pytest.mark.parametrize(
    ("examples", "n_epochs", "batch_size"),
    [(1, 25, 4), (10, 10, 4), (33, 3, 4), (34, 3, 4), (5000, 3, 10), (10_000, 2, 20), (10**6, 1, 32)],
)
def test_auto_depends_on_the_number_of_examples(examples: int, n_epochs: int, batch_size: int) -> None:
    found = resolve(RequestedHyperparameters(), Method.SUPERVISED, examples=examples, weight_bytes=SMALL)
    assert (found.n_epochs, found.batch_size) == (n_epochs, batch_size)
    assert (found.learning_rate_multiplier, found.beta) == (1.0, 0.1)


def test_a_multiplier_multiplies_the_rate_of_method_and_size() -> None:
    for method in Method:
        base = base_learning_rate(method, SMALL)
        requested = RequestedHyperparameters(learning_rate_multiplier=0.5)
        assert resolve(requested, method, examples=10, weight_bytes=SMALL).learning_rate == pytest.approx(base / 2)
        assert base > base_learning_rate(method, LARGE)
    assert base_learning_rate(Method.DPO, SMALL) < base_learning_rate(Method.SUPERVISED, SMALL)


def test_what_is_said_is_what_is_used() -> None:
    requested = RequestedHyperparameters(2, 3, 4.0, 0.5)
    requested.check("hyperparameters")
    found = resolve(requested, Method.DPO, examples=10**6, weight_bytes=SMALL)
    assert (found.n_epochs, found.batch_size, found.learning_rate_multiplier, found.beta) == (2, 3, 4.0, 0.5)
    assert RequestedHyperparameters.from_json(requested.to_json()) == requested


def test_numbers_that_are_none_are_refused() -> None:
    for value in (float("nan"), float("inf"), -1.0, 0.0, 10.1):
        with pytest.raises(InvalidRequest, match="above 0 and at most 10"):
            RequestedHyperparameters(learning_rate_multiplier=value).check("hyperparameters")
