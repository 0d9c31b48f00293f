"""Training examples as tokens: rendered by the model's own chat template, with the tokens that are trained marked.

The engine renders the same template, so a prompt that is trained is the prompt that is served. What is trained is each
answer with the token that ends it: a model that never learns that token does not stop.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.fine_tuning.graders.held_out_lines import question_of

__all__ = ["Encoder", "Example", "InvalidExample", "read_examples"]


class InvalidExample(Exception):
    """An example that can't be trained; the message is for its author."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class TokenSequence:
    """Token ids, and for each 1 where it is trained. In arrays, since a file may have a hundred million tokens."""

    tokens: array[int]
    trained: bytes


@dataclass(frozen=True)
class Example:
    """One example: a conversation, or of a preference the preferred and the other answer, each with its prompt.

    Where answers are graded it is their prompt, and `item`, the line that graders read.
    """

    sequences: tuple[TokenSequence, ...]
    item: Mapping[str, Any] | None = None

    @property
    def token_count(self) -> int:
        """The number of tokens, prompts included."""
        return sum(len(each.tokens) for each in self.sequences)


class Encoder:
    """Encodes examples for one model. `tokenizer`: of transformers, with a chat template.

    `answer_tokens`: of reinforcement, how many an answer may have; its examples are prompts. 0: of other methods.
    """

    def __init__(self, tokenizer: Any, end_tokens: Iterable[int], context_tokens: int, answer_tokens: int = 0) -> None:
        self._tokenizer = tokenizer
        self.end_tokens = frozenset(end_tokens)
        self._context_tokens = context_tokens
        self._answer_tokens = answer_tokens

    def encode(self, line: dict[str, Any]) -> Example:
        """The example of a line that the platform has checked. Raises ValueError with the cause."""
        if self._answer_tokens:
            return self._prompt(line["messages"], line, self._answer_tokens)
        if "messages" in line:
            return Example((self._conversation(line["messages"], line.get("tools")),))
        given = line["input"]
        prompt, tools = given["messages"], given.get("tools")
        answers = (line["preferred_output"], line["non_preferred_output"])
        return Example(tuple(self._conversation([*prompt, *each], tools, first=len(prompt)) for each in answers))

    def decode(self, tokens: list[int]) -> str:
        """The text of an answer, without the tokens that are no text."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def question(self, line: dict[str, Any], answer_tokens: int) -> Example:
        """The prompt of a line of any method, and what a gate's grader reads. Raises ValueError with the cause."""
        messages, item = question_of(line)
        return self._prompt(messages, item, answer_tokens)

    def _prompt(self, messages: Sequence[Any], item: Mapping[str, Any], answer_tokens: int) -> Example:
        """What the engine reads before it answers."""
        whole = self._render(messages, None, answers_next=True)
        tokens = array("I", self._tokenizer(whole, add_special_tokens=False)["input_ids"])
        if len(tokens) + answer_tokens > self._context_tokens:
            raise ValueError(
                f"it has {len(tokens)} tokens, which with an answer of {answer_tokens} are more than the "
                f"{self._context_tokens} that the model reads: set a lower 'max_completion_tokens'"
            )
        return Example((TokenSequence(tokens, bytes(len(tokens))),), item)

    def _conversation(self, messages: Sequence[Any], tools: Any, *, first: int = 0) -> TokenSequence:
        """`first`: the index of the first message whose answer may be trained."""
        whole = self._render(messages, tools)
        encoded = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        tokens = array("I", encoded["input_ids"])
        # First, since each answer is rendered with all that stands before it: of 100,000 answers that would take days.
        if len(tokens) > self._context_tokens:
            raise ValueError(f"it has {len(tokens)} tokens, and the model reads {self._context_tokens} at most")
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and index >= first and message.get("weight", 1) != 0:
                spans.append(self._span(messages, tools, index, whole))
        trained = bytearray(len(tokens))
        for begin, end in spans:
            self._mark(trained, tokens, encoded["offset_mapping"], begin, end)
        return TokenSequence(tokens, bytes(trained))

    def _span(self, messages: Sequence[Any], tools: Any, index: int, whole: str) -> tuple[int, int]:
        """Where in the text the answer at `index` stands, from after what the engine writes before it."""
        before = self._render(messages[:index], tools, answers_next=True)
        through = self._render(messages[: index + 1], tools)
        if not through.startswith(before) or not whole.startswith(through):
            raise ValueError(
                f"the model's chat template renders message {index} differently within the conversation than when it answers"
            )
        for call in messages[index].get("tool_calls") or ():
            if call["function"]["name"] not in through[len(before) :]:
                raise ValueError("the model's chat template does not render the tool calls of assistants")
        return len(before), len(through)

    def _mark(
        self, trained: bytearray, tokens: Sequence[int], offsets: Sequence[tuple[int, int]], begin: int, end: int
    ) -> None:
        """Mark the tokens of one answer, up to the one that ends it."""
        for index, (start, _) in enumerate(offsets):
            if begin <= start < end:
                trained[index] = 1
                if tokens[index] in self.end_tokens:
                    return
        raise ValueError("the model's chat template does not end an answer with a token that stops the engine")

    def _render(self, messages: Sequence[Any], tools: Any, *, answers_next: bool = False) -> str:
        rendered = self._tokenizer.apply_chat_template(
            [_for_template(each) for each in messages],
            tools=tools or None,
            tokenize=False,
            add_generation_prompt=answers_next,
        )
        return str(rendered)


def read_examples(lines: Iterable[bytes], encode: Callable[[dict[str, Any]], Example]) -> Iterator[Example]:
    """The examples of a file in JSON Lines, as a method of Encoder has them. Raises InvalidExample."""
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            yield encode(json.loads(raw))
        except Exception as error:  # a template is a program, which raises what it likes
            raise InvalidExample(number, str(error)[:500]) from error


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """A message as engines pass it to templates: text parts joined, arguments of calls as objects."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content)
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls") or ()
    ]
    rest = {name: value for name, value in message.items() if name not in ("content", "tool_calls", "weight")}
    return {**rest, "content": content, **({"tool_calls": calls} if calls else {})}
