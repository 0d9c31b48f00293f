"""Losses of the methods, computed example by example, so that the size of a batch does not change what is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from llmariner.fine_tuning.training_program.examples import Example, TokenSequence

__all__ = ["BatchResult", "evaluate", "train_on"]


@dataclass(frozen=True)
class BatchResult:
    """`loss`: mean over trained tokens; of preferences over pairs. `tokens`: all, prompts included.

    `accuracy`: the share of trained tokens that the model would have chosen; of pairs, those that are right.
    """

    loss: float
    accuracy: float
    tokens: int


def train_on(model: Any, batch: Sequence[Example], method: str, beta: float) -> BatchResult:
    """Add the gradients of a batch; one example at a time bounds the memory by the longest of them."""
    return _run(model, batch, method, beta, learns=True)


def evaluate(model: Any, examples: Sequence[Example], method: str, beta: float) -> BatchResult:
    """The result on examples, without learning from them."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        result = _run(model, examples, method, beta, learns=False)
    model.train(was_training)
    return result


def _run(model: Any, batch: Sequence[Example], method: str, beta: float, *, learns: bool) -> BatchResult:
    weights = sum(_targets(each) for each in batch) if method == "supervised" else len(batch)
    loss, right = 0.0, 0.0
    for example in batch:
        if method == "supervised":
            part, correct = _supervised(model, example.sequences[0])
        else:
            part, correct = _preference(model, example, beta)
        if learns:
            (part / max(1, weights)).backward()
        loss += float(part.detach())
        right += correct
    return BatchResult(loss / max(1, weights), right / max(1, weights), sum(each.token_count for each in batch))


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
