"""Token counts in engine responses, and the charge where they are missing or implausible.

Engines are not trusted: usage is matched as bytes, and accepted up to the most that the request can have used. Nothing here
raises for any input.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH
from llmariner.gateway.requests.parser import ModelRequest

__all__ = ["NO_BOUNDS", "NO_USAGE", "ChoiceUsage", "TokenBounds", "parse_usage"]

_COUNT = re.compile(rb'"((?:prompt|completion|cached|reasoning)_tokens)":\s*([^\s,{}\[\]]*)')
_NAMES = {name.encode(): name for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")}
_NAME = b'"usage":'
# Every count at 0. Shared by all requests: read or copy it, never change it.
NO_USAGE = dict.fromkeys(_NAMES.values(), 0)
# More than any context length: longer numbers are not parsed.
_MAX_DIGITS = 12
_MAX_COUNT = 10**_MAX_DIGITS
# Counts are at the beginning of a usage object, which has some hundred bytes.
_MAX_USAGE_BYTES = 8192
_INDEX = re.compile(rb'"index":\s?(\d{1,6})')
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
# A completion without a bound, of a model whose context length is unknown.
_MAX_COMPLETION_TOKENS = 16_777_216
# Tokens charged for each completion without a bound; limits on tokens reserve the same.
_DEFAULT_COMPLETION_TOKENS = 1024


def parse_usage(usage: bytes) -> dict[str, int] | None:
    """Parse the counts of a usage object, 0 for missing or null ones. None: one of them is not a valid count."""
    found = dict(NO_USAGE)
    before, _, members_text = usage.partition(b"}")[0].rpartition(b"{")
    # Nearly every usage is a flat object.
    if before == _NAME and len(members_text) <= _MAX_USAGE_BYTES:
        try:
            members: dict[str, Any] = orjson.loads(b"{%b}" % members_text)
        except orjson.JSONDecodeError:
            return _search_counts(usage)
        for name, value in members.items():
            if name in found and value is not None:
                if type(value) is not int or not 0 <= value < _MAX_COUNT:
                    return None
                found[name] = value
        return found
    return _search_counts(usage)


def _search_counts(usage: bytes) -> dict[str, int] | None:
    """As `parse_usage`, for any bytes: it takes a third more, compiled."""
    found = dict(NO_USAGE)
    for name, value in _COUNT.findall(usage, 0, _MAX_USAGE_BYTES):
        if value.isdigit() and len(value) <= _MAX_DIGITS:
            found[_NAMES[name]] = int(value)
        elif value != b"null":
            return None
    return found


class TokenBounds(NamedTuple):
    """The most tokens that a request can use, and its charge when the engine's counts are missing or exceed that."""

    prompt: int
    completion: int
    charged_prompt: int
    charged_completion: int

    @classmethod
    def from_request(cls, request: ModelRequest, context: int | None) -> TokenBounds:
        """`context`: the context length of the model, None: unknown.

        The charge is what the request reserved: a token per byte of its body, and the longest completion it allows; 1024
        tokens per completion without a bound.
        """
        if not request.max_prompt_tokens:
            return cls(0, 0, 0, 0)
        charged_prompt, completion = request.max_prompt_tokens, request.max_completion_tokens
        prompt_limit = request.prompt_count * (context or DEFAULT_CONTEXT_LENGTH)
        completion_limit = request.choice_count * (context or _MAX_COMPLETION_TOKENS)
        prompt = prompt_limit if context else charged_prompt + prompt_limit
        if charged_prompt > prompt_limit:
            charged_prompt = prompt_limit
        if completion is None:
            charged_completion = min(request.choice_count * _DEFAULT_COMPLETION_TOKENS, completion_limit)
            return cls(prompt, completion_limit, charged_prompt, charged_completion)
        if completion > completion_limit:
            completion = completion_limit
        return cls(prompt, completion, charged_prompt, completion)

    @property
    def charge(self) -> dict[str, int]:
        """The charge, as counts."""
        return {**NO_USAGE, "prompt_tokens": self.charged_prompt, "completion_tokens": self.charged_completion}

    def plausible(self, found: dict[str, int] | None) -> dict[str, int] | None:
        """Return plausible counts; None: they exceed the bounds."""
        if found is None or found["prompt_tokens"] > self.prompt or found["completion_tokens"] > self.completion:
            return None
        if found["cached_tokens"] > found["prompt_tokens"]:
            found["cached_tokens"] = found["prompt_tokens"]
        if found["reasoning_tokens"] > found["completion_tokens"]:
            found["reasoning_tokens"] = found["completion_tokens"]
        return found


NO_BOUNDS = TokenBounds(10**12, 10**12, 0, 0)
"""For requests without known bounds."""


class ChoiceUsage:
    """Usage of a stream with several choices, where each chunk has the counts of one choice.

    The total is the sum of the last counts of each choice; the final chunk has the total itself.
    """

    __slots__ = (
        "_choice_count",
        "_choices_per_prompt",
        "_completion",
        "_completion_by_choice",
        "_prompt",
        "_prompt_by_index",
        "_total_usage",
    )

    def __init__(self, request: ModelRequest) -> None:
        self._choice_count = request.choice_count
        self._choices_per_prompt = max(1, request.choice_count // request.prompt_count)
        # Counts per choice and per prompt, with running sums: there may be many thousands, each with many chunks.
        self._completion_by_choice: dict[int, int] = {}
        self._prompt_by_index: dict[int, int] = {}
        self._prompt = self._completion = 0
        self._total_usage = b""

    def add(self, block: bytes) -> bytes:
        """Add a block of complete events; returns a usage object of the total so far, empty if there was none."""
        for event in block.split(b"\n\n"):
            at = event.rfind(b'"usage":')
            if at < 0:
                continue
            usage = event[at:]
            index, found = _INDEX.search(event), parse_usage(usage)
            if _NO_CHOICES.search(event) or index is None or found is None:
                self._total_usage = usage
            elif (choice := int(index[1])) < self._choice_count:  # ignore choices that were not requested
                self._record(choice, found["prompt_tokens"], found["completion_tokens"])
        return self._total_usage or self._sum()

    def _record(self, choice: int, prompt: int, completion: int) -> None:
        self._completion += completion - self._completion_by_choice.get(choice, 0)
        self._completion_by_choice[choice] = completion
        prompt_index = choice // self._choices_per_prompt
        if (more := prompt - self._prompt_by_index.get(prompt_index, 0)) > 0:
            self._prompt_by_index[prompt_index] = prompt
            self._prompt += more

    def _sum(self) -> bytes:
        if not self._completion_by_choice:
            return b""
        return b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (self._prompt, self._completion)
