"""What an engine says that a request used, and what is charged where that is no count.

An engine is not trusted with its numbers: what it says is read as bytes, by pattern, and believed up to what the request
can have used at all. Nothing here raises, whatever the bytes are.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH
from llmariner.gateway.requests.parser import ModelRequest

__all__ = ["NO_BOUNDS", "ChoiceUsage", "TokenBounds", "parse_usage"]

_COUNT = re.compile(rb'"((?:prompt|completion|cached|reasoning)_tokens)":\s*([^\s,{}\[\]]*)')
_NAMES = {name.encode(): name for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")}
_NO_USAGE = dict.fromkeys(_NAMES.values(), 0)
# More than any context: what is longer is not looked at.
_MAX_DIGITS = 12
# Counts stand at the beginning of a usage object, which is some hundred bytes long.
_MAX_USAGE_BYTES = 8192
_INDEX = re.compile(rb'"index":\s?(\d{1,6})')
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
# An answer of open length, of a model whose engine was not asked for its context.
_MAX_COMPLETION_TOKENS = 16_777_216
# Tokens charged for each answer of open length, as limits on tokens reserve them.
_DEFAULT_COMPLETION_TOKENS = 1024


def parse_usage(usage: bytes) -> dict[str, int] | None:
    """The counts in the bytes of a usage object, 0 for those absent or null. None: one of them is no count."""
    found = dict(_NO_USAGE)
    for name, value in _COUNT.findall(usage, 0, _MAX_USAGE_BYTES):
        if value.isdigit() and len(value) <= _MAX_DIGITS:
            found[_NAMES[name]] = int(value)
        elif value != b"null":
            return None
    return found


class TokenBounds(NamedTuple):
    """The most tokens that a request can use, and what it is charged when its engine's counts are none or beyond that."""

    prompt: int
    completion: int
    charged_prompt: int
    charged_completion: int

    @classmethod
    def from_request(cls, request: ModelRequest, context: int | None) -> TokenBounds:
        """`context`: how many tokens the model takes, None where nobody asked so far.

        Charged is what the request reserved: a token for each byte of its body, and its longest answer; 1024 tokens for
        each answer of open length.
        """
        if not request.max_prompt_tokens:
            return cls(0, 0, 0, 0)
        usual = request.prompt_count * (context or DEFAULT_CONTEXT_LENGTH)
        most = request.choice_count * (context or _MAX_COMPLETION_TOKENS)
        return cls(
            usual if context else request.max_prompt_tokens + usual,
            most if request.max_completion_tokens is None else min(request.max_completion_tokens, most),
            min(request.max_prompt_tokens, usual),
            min(
                request.choice_count * _DEFAULT_COMPLETION_TOKENS
                if request.max_completion_tokens is None
                else request.max_completion_tokens,
                most,
            ),
        )

    @property
    def charge(self) -> dict[str, int]:
        """What is charged, as counts."""
        return {**_NO_USAGE, "prompt_tokens": self.charged_prompt, "completion_tokens": self.charged_completion}

    def plausible(self, found: dict[str, int] | None) -> dict[str, int] | None:
        """Counts that can be true; None: they can't."""
        if found is None or found["prompt_tokens"] > self.prompt or found["completion_tokens"] > self.completion:
            return None
        found["cached_tokens"] = min(found["cached_tokens"], found["prompt_tokens"])
        found["reasoning_tokens"] = min(found["reasoning_tokens"], found["completion_tokens"])
        return found


NO_BOUNDS = TokenBounds(10**12, 10**12, 0, 0)
"""Of a request of which nothing is known."""


class ChoiceUsage:
    """Usage of a stream with several answers: in each chunk engines count the one answer that the chunk is of.

    What the answers used together is the sum of the last count of each; the chunk at the end has the sum itself.
    """

    __slots__ = (
        "_answers",
        "_choices",
        "_completion",
        "_completion_by_choice",
        "_prompt",
        "_prompt_by_index",
        "_total_usage",
    )

    def __init__(self, request: ModelRequest) -> None:
        self._answers = request.choice_count
        self._choices = max(1, request.choice_count // request.prompt_count)
        # Of each answer and each prompt, and their sums: there may be many thousands of them, and each has many chunks.
        self._completion_by_choice: dict[int, int] = {}
        self._prompt_by_index: dict[int, int] = {}
        self._prompt = self._completion = 0
        self._total_usage = b""

    def add(self, block: bytes) -> bytes:
        """Look at a block of whole events; returns a usage object of all so far, empty when there was none."""
        for event in block.split(b"\n\n"):
            at = event.rfind(b'"usage":')
            if at < 0:
                continue
            usage = event[at:]
            index, found = _INDEX.search(event), parse_usage(usage)
            if _NO_CHOICES.search(event) or index is None or found is None:
                self._total_usage = usage
            elif (answer := int(index[1])) < self._answers:  # else it is of no answer that was asked for
                self._record(answer, found["prompt_tokens"], found["completion_tokens"])
        return self._total_usage or self._sum()

    def _record(self, answer: int, prompt: int, made: int) -> None:
        self._completion += made - self._completion_by_choice.get(answer, 0)
        self._completion_by_choice[answer] = made
        of = answer // self._choices
        if (more := prompt - self._prompt_by_index.get(of, 0)) > 0:
            self._prompt_by_index[of] = prompt
            self._prompt += more

    def _sum(self) -> bytes:
        if not self._completion_by_choice:
            return b""
        return b'"usage":{"prompt_tokens":%d,"completion_tokens":%d}' % (self._prompt, self._completion)
