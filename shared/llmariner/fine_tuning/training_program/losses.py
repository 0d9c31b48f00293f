"""Losses of the methods, computed example by example, so that the size of a batch does not change what is learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from llmariner.fine_tuning.training_program.batch_result import BatchResult
from llmariner.fine_tuning.training_program.examples import Example, TokenSequence
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

__all__ = ["LossObjective"]


class LossObjective:
    """What a method makes smaller. `seed`: of the job, from which the dropout of each example follows.

    Measures: `loss`, the mean over trained tokens, of preferences over pairs; `accuracy`, the share of trained tokens that
    the model would have chosen, of pairs of those that are right.
    """

    def __init__(self, method: str, beta: float, seed: int, group: WorkerGroup) -> None:
        self._method = method
        self._beta = beta
        self._seed = seed
        self._group = group

    def learn(self, model: Any, batch: Sequence[Example], step: int) -> BatchResult:
        """Give the model's parameters the gradients of a batch, of all workers together.

        One example at a time bounds the memory by the longest of them. Its dropout depends on the seed, the step and its
        place in the batch alone, so neither a restart nor the number of workers changes what is learned.
        """
        weight = self._weight(batch)

        def part(index: int, example: Example) -> tuple[float, float]:
            torch.manual_seed(((self._seed * 1_000_003 + step) * 1_009 + index) % 2**63)
            loss, right = self._loss(model, example)
            (loss / weight).backward()
            return float(loss.detach()), right

        result = self._run(batch, part)
        self._group.add_gradients([each for each in model.parameters() if each.requires_grad])
        return result

    def evaluate(self, model: Any, examples: Sequence[Example], step: int) -> BatchResult:
        """The result on examples, without learning from them; `step` does not matter."""

        def part(_: int, example: Example) -> tuple[float, float]:
            loss, right = self._loss(model, example)
            return float(loss), right

        was_training = model.training
        model.eval()
        with torch.no_grad():
            result = self._run(examples, part)
        model.train(was_training)
        return result

    def _run(self, batch: Sequence[Example], part: Callable[[int, Example], tuple[float, float]]) -> BatchResult:
        """The means of what `part` returns for each example, over the examples of all workers."""
        found = [part(index, example) for index, example in self._group.share(batch)]
        loss, right = self._group.sum([sum(loss for loss, _ in found), sum(right for _, right in found)])
        weight = self._weight(batch)
        tokens = sum(each.token_count for each in batch)
        return BatchResult(tokens, {"loss": loss / weight, "accuracy": right / weight})

    def _weight(self, batch: Sequence[Example]) -> int:
        return max(1, sum(_targets(each) for each in batch) if self._method == "supervised" else len(batch))

    def _loss(self, model: Any, example: Example) -> tuple[torch.Tensor, float]:
        """The loss of an example, to be divided by the weight of its batch, and how much of it is right."""
        if self._method == "supervised":
            return _supervised(model, example.sequences[0])
        return _preference(model, example, self._beta)


def _targets(example: Example) -> int:
    return sum(sum(each.trained[1:]) for each in example.sequences)


def _supervised(model: Any, sequence: TokenSequence) -> tuple[torch.Tensor, float]:
    """The sum of the losses of trained tokens, and how many of them the model would have chosen."""
    logits, targets = _predictions(model, sequence)
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    return loss, float((logits.detach().argmax(-1) == targets).sum())


def _preference(model: Any, example: Example, beta: float) -> tuple[torch.Tensor, float]:
    """Direct preference optimization (Rafailov et al., 2023): the model without its adapter is the reference."""
    chosen, rejected = (_log_probability(model, each) for each in example.sequences)
    with torch.no_grad(), model.disable_adapter():
        reference = [_log_probability(model, each) for each in example.sequences]
    margin = beta * ((chosen - reference[0]) - (rejected - reference[1]))
    return -functional.logsigmoid(margin), float(margin.detach() > 0)


def _log_probability(model: Any, sequence: TokenSequence) -> torch.Tensor:
    logits, targets = _predictions(model, sequence)
    return -functional.cross_entropy(logits, targets, reduction="sum")


def _predictions(model: Any, sequence: TokenSequence) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that predict each trained token, and those tokens."""
    tokens = torch.tensor([sequence.tokens.tolist()], device=model.device)
    positions = torch.tensor(
        [index - 1 for index, is_trained in enumerate(sequence.trained) if is_trained and index], device=model.device
    )
    # Logits of prompts are as large as those of answers, and nothing needs them.
    logits = model(input_ids=tokens, logits_to_keep=positions).logits[0].float()
    return logits, tokens[0][positions + 1]
