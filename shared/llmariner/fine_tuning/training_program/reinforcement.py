"""Reinforcement: a model answers, a grader gives each answer a reward, and better answers than others become likelier.

Group relative policy optimization (GRPO; Shao et al., 2024): the advantage of an answer is its reward less the mean of the
answers to the same line, divided by their standard deviation. A batch of answers is learned from once, by the model that
gave them, so a limit of the ratio of both probabilities (PPO's) would never be reached, and there is none. Every token of a
batch has the same weight (as in DAPO; Yu et al., 2025). The model without its adapter is the reference of the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import torch
from torch.nn import functional

from llmariner.fine_tuning.training_program.batch_result import BatchResult
from llmariner.fine_tuning.training_program.examples import Example
from llmariner.fine_tuning.training_program.graded_answers import Answer, GradedAnswers
from llmariner.fine_tuning.training_program.plan import Plan
from llmariner.fine_tuning.training_program.platform import AnswerPlace
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

__all__ = ["RewardObjective"]

_SMALLEST_DEVIATION = 1e-4
_EVALUATION_STEP = 0
"""Of the random numbers of evaluations: always the same, so that two of them differ by the model alone."""


class RewardObjective:
    """What `reinforcement` makes larger: the rewards of answers."""

    def __init__(self, plan: Plan, answers: GradedAnswers, group: WorkerGroup) -> None:
        self._plan = plan
        self._answers = answers
        self._group = group

    def learn(self, model: Any, batch: Sequence[Example], step: int) -> BatchResult:
        """Give the model's parameters the gradients of a batch, of all workers together.

        The answers depend on the seed, the step and the place in the batch alone, so neither a restart nor the number of
        workers changes them.
        """
        made = self._made(model, batch, step, self._plan.group_size, AnswerPlace("method", step, "train"))
        answers = [answer for _, found in made for answer in found]
        [tokens] = self._group.sum([sum(len(each.tokens) for each in answers)])
        loss, divergence, read = 0.0, 0.0, 0
        for example, found in made:
            rewards = [each.reward for each in found]
            mean, deviation = fmean(rewards), pstdev(rewards)
            for answer in found:
                advantage = (answer.reward - mean) / (deviation + _SMALLEST_DEVIATION)
                own_loss, own_divergence = self._learn_answer(model, example, answer, advantage, tokens)
                loss, divergence = loss + own_loss, divergence + own_divergence
                read += len(example.sequences[0].tokens) + len(answer.tokens)
        self._group.add_gradients([each for each in model.parameters() if each.requires_grad])
        rewards = [each.reward for each in answers]
        counts = (loss, divergence, read, sum(rewards), sum(each.failed for each in answers), len(answers))
        loss, divergence, read_by_all, reward, failed, number = self._group.sum(counts)
        others = {
            "kl_divergence": divergence,
            "completion_tokens": tokens / number,
            "grader_errors": failed / number,
        }
        return BatchResult(int(read_by_all), {"loss": loss, "reward": reward / number}, others)

    def evaluate(self, model: Any, examples: Sequence[Example], step: int) -> BatchResult:
        """The mean reward of answers to examples, without learning from them."""
        place = AnswerPlace("method", step, "valid")
        made = self._made(model, examples, _EVALUATION_STEP, self._plan.eval_samples, place)
        rewards = [answer.reward for _, found in made for answer in found]
        tokens = sum(len(answer.tokens) for _, found in made for answer in found)
        reward, number, answered = self._group.sum([sum(rewards), len(rewards), tokens])
        return BatchResult(int(answered), {"reward": reward / max(1.0, number)})

    def _made(
        self, model: Any, examples: Sequence[Example], step: int, number: int, place: AnswerPlace
    ) -> list[tuple[Example, list[Answer]]]:
        """This worker's share of the examples with its answers. Raises NoGrades where any worker has none."""
        first = self._plan.seed * 1_000_003 + step
        return self._answers.sampled(model, examples, number, lambda index: (first * 1_009 + index) % 2**63, place)

    def _learn_answer(
        self, model: Any, example: Example, answer: Answer, advantage: float, weight: float
    ) -> tuple[float, float]:
        """Add the gradients of one answer; returns its parts of the loss and of the divergence."""
        prompt = example.sequences[0].tokens.tolist()
        chosen = _log_probabilities(model, prompt, answer.tokens)
        with torch.no_grad(), model.disable_adapter():
            difference = _log_probabilities(model, prompt, answer.tokens) - chosen.detach()
        ratio = torch.exp(chosen - chosen.detach())  # 1, with the gradient of the probability
        # Schulman's estimate: never negative, and of little variance. Its gradient goes through the model's part.
        apart = difference + chosen.detach() - chosen
        divergence = torch.exp(apart) - apart - 1
        loss = (self._plan.beta * divergence - advantage * ratio).sum() / weight
        loss.backward()
        return float(loss.detach()), float(divergence.detach().sum()) / weight


def _log_probabilities(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Of each token of an answer."""
    tokens = torch.tensor([prompt + answer], device=model.device)
    positions = torch.arange(len(prompt) - 1, tokens.shape[1] - 1, device=model.device)
    logits = model(input_ids=tokens, logits_to_keep=positions).logits[0].float()
    return -functional.cross_entropy(logits, tokens[0, len(prompt) :], reduction="none")
