"""What a grader says of an answer, and the graders that say it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmariner.fine_tuning.graders.formula import Formula, InvalidFormula
from llmariner.fine_tuning.graders.similarity import comparisons, similarity
from llmariner.fine_tuning.graders.templates import MAX_TEXT, InvalidTemplate, render

__all__ = [
    "Ask",
    "Grade",
    "Grader",
    "Judgment",
    "LabelModel",
    "ModelFailed",
    "MultiGrader",
    "Question",
    "ScoreModel",
    "StringCheck",
    "TextSimilarity",
    "grade",
    "judgments",
]

_MAX_COMPARISONS = MAX_TEXT**2
"""Of all parts of a grader together: two seconds of a processor, as of one pair of the longest texts."""
_DEFAULT_TOKENS = 256
"""Of a judging model's answer: one number or label in JSON, with what a model writes around it."""


@dataclass(frozen=True)
class Question:
    """What a judging model is asked: the body of a chat completion but for its name, which is `model`."""

    model: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Judgment:
    """A request to a judging model for one answer. `characters`: of its templates. `completion_tokens`: the most."""

    model: str
    characters: int
    completion_tokens: int


class ModelFailed(Exception):
    """A judging model gave no answer. `error`: OpenAI's name of the kind. The message is for people."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


Ask = Callable[[Question], str]
"""Returns the text of a judging model's answer. Raises ModelFailed; what else it raises ends the grading."""


@dataclass(frozen=True)
class Grade:
    """`reward`: 0 with an error. `errors`: OpenAI's names, with details. `parts`: of a multi grader, by name."""

    reward: float
    errors: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)


class Grader(Protocol):
    """A grader that was checked. `models`: the judging models that it asks."""

    @property
    def models(self) -> frozenset[str]: ...

    def templates(self) -> Iterator[str]:
        """All its templates."""

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """The grade. Raises InvalidTemplate for what the line or the answer does not have."""


def grade(grader: Grader, item: Mapping[str, Any], text: str, ask: Ask) -> Grade:
    """The grade of an answer to a line of a file."""
    sample: dict[str, Any] = {"output_text": text[:MAX_TEXT]}
    try:
        sample["output_json"] = json.loads(text)
    except (ValueError, RecursionError):
        if any("output_json" in each for each in grader.templates()):
            return Grade(0.0, {"sample_parse_error": "The answer is no JSON."})
    try:
        if (pairs := _comparisons(grader, item, sample)) > _MAX_COMPARISONS:
            return Grade(0.0, {"invalid_variable_error": _too_long(pairs)})
        return grader.grade(item, sample, ask)
    except InvalidTemplate as error:
        return Grade(0.0, {"invalid_variable_error": str(error)})


def _comparisons(grader: Grader, item: Mapping[str, Any], sample: Mapping[str, Any]) -> int:
    """Pairs of characters that a grader compares for one answer. Raises InvalidTemplate."""
    if isinstance(grader, MultiGrader):
        return sum(_comparisons(each, item, sample) for each in grader.graders.values())
    return grader.comparisons(item, sample) if isinstance(grader, TextSimilarity) else 0


def _too_long(pairs: int) -> str:
    return (
        "the texts are too long for fuzzy_match and rouge_l: for each of these graders the characters of 'input' times "
        f"those of 'reference' count, together {pairs}, and {_MAX_COMPARISONS} at most. Shorten the texts, or choose "
        "another metric"
    )


@dataclass(frozen=True)
class StringCheck:
    """OpenAI's `string_check`: 1 where the comparison holds, else 0."""

    input: str
    reference: str
    operation: str
    models: frozenset[str] = frozenset()

    def templates(self) -> Iterator[str]:
        """See Grader."""
        yield from (self.input, self.reference)

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """See Grader."""
        said, wanted = render(self.input, item, sample), render(self.reference, item, sample)
        holds = {
            "eq": said == wanted,
            "ne": said != wanted,
            "like": wanted in said,
            "ilike": wanted.lower() in said.lower(),
        }
        return Grade(float(holds[self.operation]))


@dataclass(frozen=True)
class TextSimilarity:
    """OpenAI's `text_similarity`."""

    input: str
    reference: str
    metric: str
    models: frozenset[str] = frozenset()

    def templates(self) -> Iterator[str]:
        """See Grader."""
        yield from (self.input, self.reference)

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """See Grader."""
        return Grade(similarity(self.metric, *self._texts(item, sample)))

    def comparisons(self, item: Mapping[str, Any], sample: Mapping[str, Any]) -> int:
        """How many pairs of characters it compares. Raises as `grade`."""
        return comparisons(self.metric, *self._texts(item, sample))

    def _texts(self, item: Mapping[str, Any], sample: Mapping[str, Any]) -> tuple[str, str]:
        return render(self.input, item, sample), render(self.reference, item, sample)


@dataclass(frozen=True)
class _Judge:
    """What both graders by a model have. `messages`: (role, template)."""

    model: str
    messages: Sequence[tuple[str, str]]
    sampling: Mapping[str, Any]

    @property
    def models(self) -> frozenset[str]:
        """See Grader."""
        return frozenset({self.model})

    def templates(self) -> Iterator[str]:
        """See Grader."""
        yield from (template for _, template in self.messages)

    def _answer(
        self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask, name: str, schema: dict[str, Any]
    ) -> Any:
        """The field of the model's answer. Raises ModelFailed."""
        messages = [{"role": role, "content": render(template, item, sample)} for role, template in self.messages]
        form = {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
        body = {
            "max_completion_tokens": _DEFAULT_TOKENS,
            **self.sampling,
            "messages": messages,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "grade", "strict": True, "schema": form},
            },
        }
        text = ask(Question(self.model, body)).strip()
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ModelFailed("model_grader_parse_error", f"The answer is no JSON: {text[:200]}") from None
        return found.get(name) if isinstance(found, dict) else found


@dataclass(frozen=True)
class ScoreModel(_Judge):
    """OpenAI's `score_model`: the number that a model says, limited to `least` and `most`."""

    least: float = 0.0
    most: float = 1.0

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """See Grader."""
        try:
            said = self._answer(item, sample, ask, "result", {"type": "number"})
        except ModelFailed as error:
            return Grade(0.0, {error.error: str(error)})
        is_number = isinstance(said, int | float) and not isinstance(said, bool)
        if not is_number or (isinstance(said, float) and not math.isfinite(said)):
            return Grade(0.0, {"model_grader_parse_error": f"The answer has no number: {str(said)[:200]}"})
        # An integer may be larger than any float.
        return Grade(float(min(max(said, self.least), self.most)))


@dataclass(frozen=True)
class LabelModel(_Judge):
    """OpenAI's `label_model`: 1 where the model chooses a passing label, else 0."""

    labels: Sequence[str] = ()
    passing: frozenset[str] = frozenset()

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """See Grader."""
        try:
            said = self._answer(item, sample, ask, "label", {"type": "string", "enum": list(self.labels)})
        except ModelFailed as error:
            return Grade(0.0, {error.error: str(error)})
        if said not in self.labels:
            return Grade(0.0, {"model_grader_parse_error": f"The answer is none of the labels: {str(said)[:200]}"})
        return Grade(float(said in self.passing))


def judgments(grader: Grader) -> Iterator[Judgment]:
    """The requests to judging models that a grader makes for each answer."""
    if isinstance(grader, MultiGrader):
        for each in grader.graders.values():
            yield from judgments(each)
    elif isinstance(grader, _Judge):
        characters = sum(len(template) for template in grader.templates())
        yield Judgment(grader.model, characters, grader.sampling.get("max_completion_tokens", _DEFAULT_TOKENS))


@dataclass(frozen=True)
class MultiGrader:
    """OpenAI's `multi`: several graders, and a formula of their rewards."""

    graders: Mapping[str, Grader]
    formula: Formula

    @property
    def models(self) -> frozenset[str]:
        """See Grader."""
        return frozenset().union(*(each.models for each in self.graders.values()))

    def templates(self) -> Iterator[str]:
        """See Grader."""
        for each in self.graders.values():
            yield from each.templates()

    def grade(self, item: Mapping[str, Any], sample: Mapping[str, Any], ask: Ask) -> Grade:
        """See Grader. An error of a part makes the whole reward 0: its formula would be one of another thing."""
        parts: dict[str, float] = {}
        errors: dict[str, str] = {}
        for name, each in self.graders.items():
            found = each.grade(item, sample, ask)
            parts[name] = found.reward
            errors |= found.errors
        if errors:
            return Grade(0.0, errors, parts)
        try:
            return Grade(self.formula.value(parts), {}, parts)
        except InvalidFormula as error:
            return Grade(0.0, {"formula_parse_error": f"'calculate_output': {error}"}, parts)
