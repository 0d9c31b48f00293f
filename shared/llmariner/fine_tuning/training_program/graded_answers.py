"""Answers of a model in training, each with its grade, which the grader of the job's method or of its gate gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from llmariner.fine_tuning.graders.grades import Grader, ModelFailed, Question, grade
from llmariner.fine_tuning.training_program.examples import Encoder, Example
from llmariner.fine_tuning.training_program.platform import AnswerPlace, NoGrades, Refused
from llmariner.fine_tuning.training_program.worker_group import WorkerGroup

__all__ = ["Answer", "GradedAnswers", "Grades", "HeldOutGrades"]

_REQUESTS = 8
"""To judging models at once."""
_ROUND = 8
"""Questions of a worker, after whose grades those of all workers are kept."""


class Grades(Protocol):
    """The part of `platform.Platform` that grades by a judging model."""

    def grade(self, item: Mapping[str, Any], text: str, place: AnswerPlace) -> tuple[float, bool]:
        """The reward of an answer, and whether an error made it 0."""


@dataclass(frozen=True)
class Answer:
    """An answer of the model: its tokens with the one that ended it, its reward, and whether the grader failed."""

    tokens: list[int]
    reward: float
    failed: bool


class GradedAnswers:
    """Makes and grades answers of up to `longest` tokens."""

    def __init__(self, grader: Grader, encoder: Encoder, platform: Grades, group: WorkerGroup, longest: int) -> None:
        self._grader = grader
        self._encoder = encoder
        self._platform = platform
        self._group = group
        self._longest = longest

    def sampled(
        self, model: Any, examples: Sequence[Example], number: int, seed: Callable[[int], int], place: AnswerPlace
    ) -> list[tuple[Example, list[Answer]]]:
        """This worker's share of the examples, each with so many answers by the model's own probabilities.

        `seed`: of the random numbers of an example, by its index. `place`: of all the answers. Raises NoGrades where any
        worker has none for now, Refused where it never has.
        """

        def answers(index: int, example: Example) -> list[Answer]:
            torch.manual_seed(seed(index))
            how = {"do_sample": True, "num_return_sequences": number, "temperature": 1.0}
            return self._answers(model, example, place.part(index), **how)

        return self._shared(examples, answers)

    def likeliest(self, model: Any, examples: Sequence[Example], place: AnswerPlace, first: int) -> list[float]:
        """The rewards of all examples, each of the answer whose tokens are the likeliest, as an engine's at temperature 0.

        Every worker makes its share of them and has all. `first`: the index of the first one. Raises as `sampled`.
        """

        def answers(index: int, example: Example) -> list[Answer]:
            return self._answers(model, example, place.part(first + index), do_sample=False)

        rewards = [0.0] * len(examples)
        made = self._shared(examples, answers)
        for (index, _), (_, [answer]) in zip(self._group.share(examples), made, strict=True):
            rewards[index] = answer.reward
        return self._group.sum(rewards)

    def _shared(
        self, examples: Sequence[Example], answers: Callable[[int, Example], list[Answer]]
    ) -> list[tuple[Example, list[Answer]]]:
        made: list[tuple[Example, list[Answer]]] = []
        problem: NoGrades | Refused | None = None
        for index, example in self._group.share(examples):
            try:
                made.append((example, answers(index, example)))
            except (NoGrades, Refused) as error:
                problem = error
                break
        problems = [isinstance(problem, kind) for kind in (Refused, NoGrades)]
        refused, ungraded = self._group.sum(map(float, problems))
        if refused or ungraded:
            kind = Refused if refused else NoGrades
            raise kind(str(problem or "A model of the grader can't be asked by another worker of the job."))
        return made

    def _answers(self, model: Any, example: Example, place: AnswerPlace, **how: Any) -> list[Answer]:
        made = list(self._generated(model, example.sequences[0].tokens.tolist(), **how))
        texts = [self._encoder.decode(tokens) for tokens in made]
        grades = self._grades(example.item or {}, texts, place)
        return [Answer(tokens, *graded) for tokens, graded in zip(made, grades, strict=True)]

    def _generated(self, model: Any, prompt: list[int], **how: Any) -> Iterator[list[int]]:
        """Tokens of answers, each up to the one that ends it."""
        ends = sorted(self._encoder.end_tokens)
        sampling = {"top_k": 0, "top_p": 1.0} if how["do_sample"] else {}
        config = GenerationConfig(
            **how,
            **sampling,
            repetition_penalty=1.0,
            max_new_tokens=self._longest,
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

    def _grades(self, item: Mapping[str, Any], texts: Sequence[str], place: AnswerPlace) -> list[tuple[float, bool]]:
        if not self._grader.models:
            found = [grade(self._grader, item, text, _ask_nobody) for text in texts]
            return [(each.reward, bool(each.errors)) for each in found]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return list(pool.map(partial(self._platform.grade, item), texts, map(place.part, range(len(texts)))))


class HeldOutGrades:
    """What a gate compares: the mean grade of a model's answers to the validation file. `questions`: its lines.

    `problem`: why the last model that was to be graded has no grade; empty where it has one.
    """

    def __init__(self, answers: GradedAnswers, questions: Sequence[Example], group: WorkerGroup) -> None:
        self._answers = answers
        self._questions = questions
        self._group = group
        self.problem = ""
        self._step = 0
        self._rewards: list[float] = []

    def graded(self, step: int) -> int:
        """How many answers of the model after a step have a grade."""
        return len(self._rewards) if step == self._step else 0

    def mean(self, model: Any, step: int, keep: Callable[[], None]) -> float | None:
        """The mean grade of a model; None where it can't be graded any more, such as by a model that was deleted.

        Every worker calls it. `step`: after which the model is so. Grades of that model that are here already are not given
        again. `keep` is called after some more of them. Raises NoGrades.
        """
        if step != self._step:
            self._step, self._rewards = step, []
        place, part = AnswerPlace("gate", step, ""), _ROUND * self._group.size
        try:
            while (first := len(self._rewards)) < len(self._questions):
                questions = self._questions[first : first + part]
                self._rewards += self._answers.likeliest(model, questions, place, first)
                keep()
        except Refused as error:  # the gate does not open then, and what was trained is kept
            self.problem = str(error)
            return None
        self.problem = ""
        return sum(self._rewards) / max(1, len(self._rewards))

    def to_json(self) -> dict[str, Any]:
        """A JSON object for `restore`."""
        return {"problem": self.problem, "step": self._step, "rewards": self._rewards}

    def restore(self, document: Mapping[str, Any]) -> None:
        """Continue with the grades of a state."""
        self.problem = document["problem"]
        self._step, self._rewards = document["step"], list(document["rewards"])


def _ask_nobody(question: Question) -> str:
    raise ModelFailed("model_grader_server_error", f"'{question.model}' is asked by the platform alone.")
