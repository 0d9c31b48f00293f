"""Reads graders in OpenAI's form, and says of each that is refused why."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from llmariner.fine_tuning.graders.formula import Formula, InvalidFormula
from llmariner.fine_tuning.graders.grades import (
    Grader,
    LabelModel,
    MultiGrader,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from llmariner.fine_tuning.graders.similarity import METRICS
from llmariner.fine_tuning.graders.templates import InvalidTemplate, check_template

__all__ = ["InvalidGrader", "read_grader"]

_OPERATIONS = ("eq", "ne", "like", "ilike")
_ROLES = ("system", "developer", "user", "assistant")
_PARTS = ("input_text", "output_text", "text")
_MAX_GRADERS, _MAX_MESSAGES, _MAX_LABELS, _MAX_NAME = 10, 20, 50, 128
_MAX_PLACES = 64
"""Of all templates together: each line of a file is put into each of them when it is checked."""
_MAX_TOKENS, _MAX_CHARACTERS = 4096, 100_000
_PART_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class InvalidGrader(ValueError):
    """A grader that is not read here. `param`: the field that is wrong; the message is for people."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


def read_grader(document: object, where: str = "grader") -> Grader:
    """The grader of a JSON object. Raises InvalidGrader. `where`: its field."""
    try:
        length = len(json.dumps(document))
    except RecursionError:
        raise InvalidGrader(where, f"'{where}' is nested too deeply.") from None
    if length > _MAX_CHARACTERS:
        raise InvalidGrader(where, f"'{where}' has {_MAX_CHARACTERS} characters at most.")
    grader = _read(document, where, _READERS)
    if sum(map(check_template, grader.templates())) > _MAX_PLACES:
        raise InvalidGrader(
            where, f"The templates of '{where}' have {_MAX_PLACES} places for values at most, all together."
        )
    return grader


def _read(document: object, where: str, readers: Mapping[str, Callable[[Any, str], Grader]]) -> Grader:
    if not isinstance(document, dict):
        raise InvalidGrader(where, f"'{where}' must be an object with 'type'.")
    kind = document.get("type")
    if kind == "python":
        raise InvalidGrader(
            f"{where}.type", "Graders of the type 'python' are not available: graders here run no code of callers."
        )
    if not isinstance(kind, str) or kind not in readers:
        raise InvalidGrader(f"{where}.type", f"'{where}.type' must be one of {', '.join(readers)}.")
    name = _text(document, "name", where)
    if not 0 < len(name) <= _MAX_NAME:
        raise InvalidGrader(f"{where}.name", f"'{where}.name' has 1 to {_MAX_NAME} characters.")
    return readers[kind](document, where)


def _string_check(document: Mapping[str, Any], where: str) -> Grader:
    _refuse_unknown(document, where, "input", "reference", "operation")
    operation = _one_of(document, "operation", where, _OPERATIONS)
    return StringCheck(_template(document, "input", where), _template(document, "reference", where), operation)


def _text_similarity(document: Mapping[str, Any], where: str) -> Grader:
    _refuse_unknown(document, where, "input", "reference", "evaluation_metric")
    if document.get("evaluation_metric") == "cosine":
        raise InvalidGrader(
            f"{where}.evaluation_metric",
            "The metric 'cosine' is not available: it belongs to evaluations, and not to fine-tuning. "
            f"Send one of {', '.join(METRICS)}.",
        )
    metric = _one_of(document, "evaluation_metric", where, tuple(METRICS))
    return TextSimilarity(_template(document, "input", where), _template(document, "reference", where), metric)


def _score_model(document: Mapping[str, Any], where: str) -> Grader:
    _refuse_unknown(document, where, "model", "input", "range", "sampling_params")
    limits = document.get("range")
    numbers = [0.0, 1.0] if limits is None else limits
    valid = isinstance(numbers, list) and len(numbers) == 2 and all(_is_number(each) for each in numbers)
    if not valid or not numbers[0] < numbers[1]:
        raise InvalidGrader(f"{where}.range", f"'{where}.range' must be two numbers, the lower one first.")
    least, most = map(float, numbers)
    return ScoreModel(*_judge(document, where), least=least, most=most)


def _label_model(document: Mapping[str, Any], where: str) -> Grader:
    _refuse_unknown(document, where, "model", "input", "labels", "passing_labels", "sampling_params")
    labels = _labels(document, "labels", where)
    passing = _labels(document, "passing_labels", where)
    if not set(passing) <= set(labels):
        raise InvalidGrader(f"{where}.passing_labels", f"'{where}.passing_labels' must be some of '{where}.labels'.")
    return LabelModel(*_judge(document, where), labels=tuple(labels), passing=frozenset(passing))


def _multi(document: Mapping[str, Any], where: str) -> Grader:
    _refuse_unknown(document, where, "graders", "calculate_output")
    parts = document.get("graders")
    if not isinstance(parts, dict) or not 0 < len(parts) <= _MAX_GRADERS:
        raise InvalidGrader(
            f"{where}.graders", f"'{where}.graders' must be an object of 1 to {_MAX_GRADERS} graders by name."
        )
    graders = {}
    for name, part in parts.items():
        if not _PART_NAME.fullmatch(name):
            raise InvalidGrader(
                f"{where}.graders", f"The name of a grader has letters, digits and '_': '{name[:64]}' has others."
            )
        graders[name] = _read(part, f"{where}.graders.{name}", _PART_READERS)
    param = f"{where}.calculate_output"
    try:
        formula = Formula(_text(document, "calculate_output", where))
    except InvalidFormula as error:
        raise InvalidGrader(param, f"'{param}': {error}.") from error
    if missing := sorted(formula.names - graders.keys()):
        raise InvalidGrader(param, f"'{param}': there is no grader '{missing[0][:64]}'.")
    return MultiGrader(graders, formula)


_PART_READERS: dict[str, Callable[[Any, str], Grader]] = {
    "string_check": _string_check,
    "text_similarity": _text_similarity,
    "score_model": _score_model,
    "label_model": _label_model,
}
_READERS = {**_PART_READERS, "multi": _multi}


def _judge(document: Mapping[str, Any], where: str) -> tuple[str, tuple[tuple[str, str], ...], dict[str, Any]]:
    """Model, messages and sampling parameters."""
    model = _text(document, "model", where)
    if not 0 < len(model) <= 256:
        raise InvalidGrader(f"{where}.model", f"'{where}.model' must be the name of a model.")
    given = document.get("input")
    if not isinstance(given, list) or not 0 < len(given) <= _MAX_MESSAGES:
        raise InvalidGrader(f"{where}.input", f"'{where}.input' must be a list of 1 to {_MAX_MESSAGES} messages.")
    messages = tuple(_message(each, f"{where}.input[{number}]") for number, each in enumerate(given))
    return model, messages, _sampling(document.get("sampling_params"), f"{where}.sampling_params")


def _message(message: object, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise InvalidGrader(where, f"'{where}' must be an object with 'role' and 'content'.")
    for name in message.keys() - {"role", "content", "type"}:
        raise InvalidGrader(f"{where}.{name[:64]}", f"'{where}.{name[:64]}' is not known.")
    role = _one_of(message, "role", where, _ROLES)
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") in _PARTS else part
        if not isinstance(text, str):
            raise InvalidGrader(f"{where}.content", f"'{where}.content' must be text.")
        texts.append(text)
    joined = "\n".join(texts)
    _check(joined, f"{where}.content")
    return role, joined


def _sampling(said: object, where: str) -> dict[str, Any]:
    """Fields of a chat completion."""
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise InvalidGrader(where, f"'{where}' must be an object.")
    found: dict[str, Any] = {}
    limits = {
        "temperature": (0, 2),
        "top_p": (0, 1),
        "seed": (0, 2**63 - 1),
        "max_completions_tokens": (1, _MAX_TOKENS),
    }
    for name, value in said.items():
        param = f"{where}.{name[:64]}"
        if name == "reasoning_effort" and value is None:
            continue
        if name not in limits:
            raise InvalidGrader(param, f"'{param}' is not available: send {', '.join(limits)}.")
        least, most = limits[name]
        whole = name in ("seed", "max_completions_tokens")
        if not _is_number(value) or not least <= value <= most or (whole and not isinstance(value, int)):
            raise InvalidGrader(param, f"'{param}' must be a {'whole ' * whole}number from {least} to {most}.")
        # OpenAI writes it so here, and as below in chat completions.
        found["max_completion_tokens" if name == "max_completions_tokens" else name] = value
    return found


def _labels(document: Mapping[str, Any], name: str, where: str) -> list[str]:
    found = document.get(name)
    texts = isinstance(found, list) and all(isinstance(each, str) and 0 < len(each) <= _MAX_NAME for each in found)
    if not isinstance(found, list) or not texts or not 0 < len(set(found)) == len(found) <= _MAX_LABELS:
        raise InvalidGrader(
            f"{where}.{name}", f"'{where}.{name}' must be a list of 1 to {_MAX_LABELS} different texts."
        )
    return found


def _template(document: Mapping[str, Any], name: str, where: str) -> str:
    text = _text(document, name, where)
    _check(text, f"{where}.{name}")
    return text


def _check(template: str, param: str) -> None:
    try:
        check_template(template)
    except InvalidTemplate as error:
        raise InvalidGrader(param, f"'{param}': {error}.") from error


def _text(document: Mapping[str, Any], name: str, where: str) -> str:
    found = document.get(name)
    if not isinstance(found, str):
        raise InvalidGrader(f"{where}.{name}", f"'{where}.{name}' must be a text.")
    return found


def _one_of(document: Mapping[str, Any], name: str, where: str, allowed: tuple[str, ...]) -> str:
    found = document.get(name)
    if not isinstance(found, str) or found not in allowed:
        raise InvalidGrader(f"{where}.{name}", f"'{where}.{name}' must be one of {', '.join(allowed)}.")
    return found


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
    )


def _refuse_unknown(document: Mapping[str, Any], where: str, *known: str) -> None:
    for name in document:
        if name not in ("type", "name", *known):
            raise InvalidGrader(f"{where}.{name[:64]}", f"'{where}.{name[:64]}' is not known.")
