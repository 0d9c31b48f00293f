"""Reinforcement: a model answers, a grader gives each answer a reward, and better answers than others become likelier.

Group relative policy optimization (GRPO; Shao et al., 2024): the advantage of an answer is its reward less the mean of the
answers to the same line, divided by their standard deviation. A batch of answers is learned from once, by the model that
gave them, so a limit of the ratio of both probabilities (PPO's) would never be reached, and there is none. Every token of a
batch has the same weight (as in DAPO; Yu et al., 2025). The model without its adapter is the reference of the penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import fmean, pstdev
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import GenerationConfig

from llmariner.fine_tuning.graders.grades import Grader, ModelFailed, Question, grade
from llmariner.fine_tuning.training_program.batch_result import BatchResult
from llmariner.fine_tuning.training_program.examples import Encoder, Example
from llmariner.fine_tuning.training_program.plan import Plan
from llmariner.fine_tuning.training_program.platform import NoGrades
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

__all__ = ["RewardObjective"]

_SMALLEST_DEVIATION = 1e-4
_REQUESTS = 8
"""To judging models at once."""
_EVALUATION_STEP = 0
"""Of the random numbers of evaluations: always the same, so that two of them differ by the model alone."""


class Grades(Protocol):
    """The part of `platform.Platform` that grades by a judging model."""

    def grade(self, item: Mapping[str, Any], text: str) -> tuple[float, bool]:
        """The reward of an answer, and whether an error made it 0."""


@dataclass(frozen=True)
class _Answer:
    """An answer of the model: its tokens with the one that ended it, its reward, and whether the grader failed."""

    tokens: list[int]
    reward: float
    failed: bool


class RewardObjective:
    """What `reinforcement` makes larger: the rewards of answers. `encoder`: of the model's prompts."""

    def __init__(self, plan: Plan, grader: Grader, encoder: Encoder, platform: Grades, group: WorkerGroup) -> None:
        self._plan = plan
        self._grader = grader
        self._encoder = encoder
        self._platform = platform
        self._group = group

    def learn(self, model: Any, batch: Sequence[Example], step: int) -> BatchResult:
        """Give the model's parameters the gradients of a batch, of all workers together.

        The answers depend on the seed, the step and the place in the batch alone, so neither a restart nor the number of
        workers changes them.
        """
        made = self._made(model, batch, step, self._plan.group_size)
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

    def evaluate(self, model: Any, examples: Sequence[Example]) -> BatchResult:
        """The mean reward of answers to examples, without learning from them."""
        made = self._made(model, examples, _EVALUATION_STEP, self._plan.eval_samples)
        rewards = [answer.reward for _, found in made for answer in found]
        tokens = sum(len(answer.tokens) for _, found in made for answer in found)
        reward, number, answered = self._group.sum([sum(rewards), len(rewards), tokens])
        return BatchResult(int(answered), {"reward": reward / max(1.0, number)})

    def _made(
        self, model: Any, examples: Sequence[Example], step: int, number: int
    ) -> list[tuple[Example, list[_Answer]]]:
        """This worker's share of the examples with its answers. Raises NoGrades where any worker has none."""
        made, problem = [], ""
        for index, example in self._group.share(examples):
            torch.manual_seed(((self._plan.seed * 1_000_003 + step) * 1_009 + index) % 2**63)
            try:
                made.append((example, self._answers(model, example, number)))
            except NoGrades as error:
                problem = str(error)
                break
        if self._group.any(bool(problem)):
            raise NoGrades(problem or "A model of the grader can't be asked by another worker of the job.")
        return made

    def _answers(self, model: Any, example: Example, number: int) -> list[_Answer]:
        """So many answers of the model to a line, with their grades."""
        made = list(self._sampled(model, example.sequences[0].tokens.tolist(), number))
        texts = [self._encoder.decode(tokens) for tokens in made]
        grades = self._grades(example.item or {}, texts)
        return [_Answer(tokens, *graded) for tokens, graded in zip(made, grades, strict=True)]

    def _sampled(self, model: Any, prompt: list[int], number: int) -> Iterator[list[int]]:
        """Tokens of answers, each up to the one that ends it, by the model's own probabilities."""
        ends = sorted(self._encoder.end_tokens)
        config = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            repetition_penalty=1.0,
            max_new_tokens=self._plan.max_completion_tokens,
            num_return_sequences=number,
            eos_token_id=ends,
            pad_token_id=ends[0],
            use_cache=True,
        )
        given = torch.tensor([prompt], device=model.device)
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found = model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=config)
        model.train(was_training)
        for row in found[:, len(prompt) :].tolist():
            end = next((at for at, token in enumerate(row) if token in self._encoder.end_tokens), len(row) - 1)
            yield row[: end + 1]

    def _grades(self, item: Mapping[str, Any], texts: Sequence[str]) -> list[tuple[float, bool]]:
        if not self._grader.models:
            found = [grade(self._grader, item, text, _ask_nobody) for text in texts]
            return [(each.reward, bool(each.errors)) for each in found]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(partial(self._platform.grade, item), texts))

    def _learn_answer(
        self, model: Any, example: Example, answer: _Answer, advantage: float, weight: float
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


def _ask_nobody(question: Question) -> str:
    raise ModelFailed("model_grader_server_error", f"'{question.model}' is asked by the platform alone.")
