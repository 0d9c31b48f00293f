"""Examples that are too long are refused before their answers are looked at: each answer renders all that is before it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmariner.fine_tuning.training_program.examples import Encoder, InvalidExample, read_examples

ASKED, SAID = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


class WordTokenizer:
    """A token for each character; `rendered` counts the messages that went through its template."""

    def __init__(self) -> None:
        self.rendered = 0

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        self.rendered += len(messages)
        return "".join(f"{each['content']}." for each in messages)

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        return {"input_ids": [*map(ord, text)], "offset_mapping": [(at, at + 1) for at in range(len(text))]}


def test_the_answers_of_an_example_that_is_too_long_are_not_rendered() -> None:
    tokenizer = WordTokenizer()
    encoder = Encoder(tokenizer, [ord(".")], 4096)
    lines = [json.dumps({"messages": [ASKED, SAID] * number}).encode() for number in (2, 2000)]
    examples = read_examples(lines, encoder.encode)
    assert next(examples).token_count == 8
    tokenizer.rendered = 0
    with pytest.raises(InvalidExample, match="it has 8000 tokens, and the model reads 4096 at most"):
        next(examples)
    assert tokenizer.rendered == 4000, "it was rendered once"


def test_a_prompt_leaves_room_for_the_answers_to_it() -> None:
    line = {"messages": [ASKED] * 5, "word": "x"}
    [prompt] = read_examples(
        [json.dumps(line).encode()], Encoder(WordTokenizer(), [ord(".")], 20, answer_tokens=10).encode
    )
    assert (prompt.token_count, prompt.item) == (10, line)
    tight = Encoder(WordTokenizer(), [ord(".")], 20, answer_tokens=11)
    with pytest.raises(
        InvalidExample, match=r"with an answer of 11 are more than the 20 .* lower 'max_completion_tokens'"
    ):
        list(read_examples([json.dumps(line).encode()], tight.encode))
