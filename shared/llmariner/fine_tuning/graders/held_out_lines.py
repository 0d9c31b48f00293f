"""Lines of a validation file as questions to a model, and as what a grader reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["REFERENCE", "question_of"]

REFERENCE = "reference_answer"
"""The field by which templates name the line's own answer; a line may have one of its own."""


def question_of(line: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, Any]]:
    """The messages that the model answers, and the item of the grader, of a line of any method whose form is good.

    The line's own answer is no part of the question: it is the preferred one of a preference, and the last message of a
    conversation that ends with the assistant's. A line with messages may have any further fields, for graders.
    """
    if "messages" not in line:
        messages, answer = line["input"]["messages"], line["preferred_output"][0]
    else:
        messages, answer = line["messages"], None
        if messages[-1]["role"] == "assistant":
            messages, answer = messages[:-1], messages[-1]
    if answer is None or REFERENCE in line or answer.get("content") is None:
        return messages, line
    return messages, {**line, REFERENCE: _text(answer["content"])}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
