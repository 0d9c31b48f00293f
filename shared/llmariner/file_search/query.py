"""What a conversation asks of the documents: the queries of its last turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmariner.errors import InvalidRequest

__all__ = ["MAX_LENGTH", "last_question", "message_text", "queries"]

# A turn with more words says by itself what it is about.
_SHORT_TURN_WORDS = 12
MAX_LENGTH = 1000
"""Characters of a query by default: about what small embedding models read."""


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message: its string, or its text parts."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def last_question(messages: Sequence[Mapping[str, Any]]) -> int:
    """The index of the last message of the user with text. InvalidRequest if there is none."""
    found = next(_questions(messages), None)
    if found is None:
        raise InvalidRequest(
            "'file_search' needs a message with role 'user' and text, for which it searches.",
            param="messages",
            code="invalid_value",
        )
    return found


def queries(messages: Sequence[Mapping[str, Any]], max_length: int = MAX_LENGTH) -> list[str]:
    """The last turn of the user, and where it is short, once more after the turn before.

    "And on Fridays?" alone finds nothing. The rule needs no call of a model, and a chunk that either query finds counts with
    its better score.
    """
    turns = [message_text(messages[index]) for index in _questions(messages)][:2]
    found = [_cut(turns[0], max_length)]
    if len(turns) > 1 and len(turns[0].split()) <= _SHORT_TURN_WORDS:
        found.append(_cut(f"{_cut(turns[1], max_length // 2)} {turns[0]}", max_length))
    return found


def _questions(messages: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """The indexes of the user's messages with text, the last one first."""
    return (
        index
        for index in range(len(messages) - 1, -1, -1)
        if messages[index].get("role") == "user" and message_text(messages[index]).strip()
    )


def _cut(text: str, length: int) -> str:
    """The text; of a longer one the beginning and the end, where a question about a pasted text stands."""
    text = text.replace("\0", " ").strip()
    half = length // 2
    return text if len(text) <= length else f"{text[: half - 1].strip()} {text[-half:].strip()}"
