"""Token counts in engine responses, and the charge where they are missing or implausible.

Engines are not trusted: usage is matched as bytes, and accepted up to the most that the request can have used. Nothing here
raises for any input.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from llmariner.gateway.admission.context_length import DEFAULT_CONTEXT_LENGTH
from llmariner.gateway.requests.parser import ModelRequest

__all__ = [
    "NO_BOUNDS",
    "NO_USAGE",
    "ChoiceUsage",
    "TokenBounds",
    "TokenUsage",
    "is_null_usage",
    "may_have_text",
    "parse_usage",
]

_COUNT: Final = re.compile(rb'"((?:prompt|completion|cached|reasoning)_tokens)":\s*([^\s,{}\[\]]*)')
_NAME: Final = b'"usage":'
_NULL_USAGES: Final = (b'"usage":null', b'"usage": null')
# A longer event of a stream has text.
_MAX_EVENT_WITHOUT_TEXT: Final = 16_384
# More than any context length: longer numbers are not parsed.
_MAX_DIGITS: Final = 12
_MAX_COUNT: Final = 1_000_000_000_000
# Counts are at the beginning of a usage object, which has some hundred bytes.
_MAX_USAGE_BYTES: Final = 8192
_INDEX = re.compile(rb'"index":\s?(\d{1,6})')
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
# A completion without a bound, of a model whose context length is unknown.
_MAX_COMPLETION_TOKENS: Final = 16_777_216
# Tokens charged for each completion without a bound; limits on tokens reserve the same.
_DEFAULT_COMPLETION_TOKENS: Final = 1024


class TokenUsage:
    """The counts of a usage object. It is not changed once others have it."""

    __slots__ = ("cached_tokens", "completion_tokens", "prompt_tokens", "reasoning_tokens")

    def __init__(
        self, prompt_tokens: int = 0, completion_tokens: int = 0, cached_tokens: int = 0, reasoning_tokens: int = 0
    ) -> None:
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens
        self.cached_tokens, self.reasoning_tokens = cached_tokens, reasoning_tokens

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Of prompt and completion, of cached tokens of the prompt, and of reasoning in the completion."""
        return self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.reasoning_tokens

    def at_least(self, other: TokenUsage) -> TokenUsage:
        """The greater of each pair of counts."""
        return TokenUsage(
            max(self.prompt_tokens, other.prompt_tokens),
            max(self.completion_tokens, other.completion_tokens),
            max(self.cached_tokens, other.cached_tokens),
            max(self.reasoning_tokens, other.reasoning_tokens),
        )


NO_USAGE: Final = TokenUsage()


def parse_usage(usage: bytes) -> TokenUsage | None:
    """Parse the counts of a usage object, 0 for missing or null ones. None: one of them is not a valid count."""
    before, _, members_text = usage.partition(b"}")[0].rpartition(b"{")
    # Nearly every usage is a flat object.
    if before == _NAME and len(members_text) <= _MAX_USAGE_BYTES:
        try:
            members: dict[str, Any] = orjson.loads(b"{%b}" % members_text)
        except orjson.JSONDecodeError:
            return _search_counts(usage)
        prompt, completion = _count(members.get("prompt_tokens")), _count(members.get("completion_tokens"))
        cached, reasoning = _count(members.get("cached_tokens")), _count(members.get("reasoning_tokens"))
        if prompt < 0 or completion < 0 or cached < 0 or reasoning < 0:
            return None
        return TokenUsage(prompt, completion, cached, reasoning)
    return _search_counts(usage)


def _count(value: object) -> int:
    """A count, 0 for a missing or null one, or -1 for a value that is none."""
    if value is None:
        return 0
    # Of that type: a boolean is no count, although it is an integer in Python.
    if type(value) is not int:
        return -1
    return value if 0 <= value < _MAX_COUNT else -1


def _search_counts(usage: bytes) -> TokenUsage | None:
    """As `parse_usage`, for any bytes: it takes a third more, compiled."""
    found: dict[bytes, int] = {}
    for name, value in _COUNT.findall(usage, 0, _MAX_USAGE_BYTES):
        if value.isdigit() and len(value) <= _MAX_DIGITS:
            found[name] = int(value)
        elif value != b"null":
            return None
    names = (b"prompt_tokens", b"completion_tokens", b"cached_tokens", b"reasoning_tokens")
    return TokenUsage(*(found.get(name, 0) for name in names))


def is_null_usage(usage: bytes) -> bool:
    """Whether bytes that begin with a usage say nothing: some engines and proxies end a stream with that."""
    return usage.startswith(_NULL_USAGES)


def may_have_text(event: bytes) -> bool:
    """Whether an event of a stream may have generated text; True for one that can't be read."""
    if len(event) > _MAX_EVENT_WITHOUT_TEXT:
        return True
    try:
        document: Any = orjson.loads(event.partition(b"data:")[2])
    except orjson.JSONDecodeError:
        return True
    choices: Any = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list):
        return True
    return any(_choice_has_text(choice) for choice in choices)


def _choice_has_text(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return True
    delta: Any = choice.get("delta") or {}
    if not isinstance(delta, dict):
        return True
    return bool(choice.get("text")) or any(value for name, value in delta.items() if name != "role")


class TokenBounds:
    """The most tokens that a request can use, and its charge when the engine's counts are missing or exceed that."""

    __slots__ = ("charged_completion", "charged_prompt", "completion", "prompt")

    def __init__(self, prompt: int, completion: int, charged_prompt: int, charged_completion: int) -> None:
        self.prompt, self.completion = prompt, completion
        self.charged_prompt, self.charged_completion = charged_prompt, charged_completion

    @staticmethod
    def from_request(request: ModelRequest, context: int | None) -> TokenBounds:
        """`context`: the context length of the model, None: unknown.

        The charge is what the request reserved: a token per byte of its body, and the longest completion it allows; 1024
        tokens per completion without a bound.
        """
        if not request.max_prompt_tokens:
            return TokenBounds(0, 0, 0, 0)
        charged_prompt, completion = request.max_prompt_tokens, request.max_completion_tokens
        prompt_limit = request.prompt_count * (context or DEFAULT_CONTEXT_LENGTH)
        completion_limit = request.choice_count * (context or _MAX_COMPLETION_TOKENS)
        prompt = prompt_limit if context else charged_prompt + prompt_limit
        if charged_prompt > prompt_limit:
            charged_prompt = prompt_limit
        if completion is None:
            charged_completion = min(request.choice_count * _DEFAULT_COMPLETION_TOKENS, completion_limit)
            return TokenBounds(prompt, completion_limit, charged_prompt, charged_completion)
        if completion > completion_limit:
            completion = completion_limit
        return TokenBounds(prompt, completion, charged_prompt, completion)

    @property
    def charge(self) -> TokenUsage:
        """The charge, as counts."""
        return TokenUsage(self.charged_prompt, self.charged_completion)

    def plausible(self, found: TokenUsage | None) -> TokenUsage | None:
        """Return plausible counts; None: they exceed the bounds."""
        if found is None or found.prompt_tokens > self.prompt or found.completion_tokens > self.completion:
            return None
        if found.cached_tokens > found.prompt_tokens or found.reasoning_tokens > found.completion_tokens:
            cached = min(found.cached_tokens, found.prompt_tokens)
            reasoning = min(found.reasoning_tokens, found.completion_tokens)
            return TokenUsage(found.prompt_tokens, found.completion_tokens, cached, reasoning)
        return found


NO_BOUNDS = TokenBounds(10**12, 10**12, 0, 0)
"""For requests without known bounds."""


class ChoiceUsage:
    """Usage of a stream with several choices, where each chunk has the counts of one choice.

    The total is the sum of the last counts of each choice; the final chunk has the total itself. A null usage counts as in
    `UsageFilter`.
    """

    __slots__ = (
        "_choice_count",
        "_choices_per_prompt",
        "_completion",
        "_completion_by_choice",
        "_prompt",
        "_prompt_by_index",
        "_total_usage",
        "_uncounted",
    )

    def __init__(self, request: ModelRequest) -> None:
        self._choice_count = request.choice_count
        self._choices_per_prompt = max(1, request.choice_count // request.prompt_count)
        # Counts per choice and per prompt, with running sums: there may be many thousands, each with many chunks.
        self._completion_by_choice: dict[int, int] = {}
        self._prompt_by_index: dict[int, int] = {}
        self._prompt = self._completion = 0
        self._total_usage = b""
        # Choices with text after their last counts.
        self._uncounted: set[int] = set()

    def add(self, block: bytes) -> bytes:
        """Add a block of complete events; returns a usage object of the total so far, empty if there was none."""
        for event in block.split(b"\n\n"):
            at = event.rfind(b'"usage":')
            if at < 0:
                continue
            usage = event[at:]
            index = _INDEX.search(event)
            if is_null_usage(usage):
                self._note_null(event, -1 if index is None else int(index[1]))
                continue
            found = parse_usage(usage)
            if _NO_CHOICES.search(event) or index is None or found is None:
                self._total_usage = usage
            elif (choice := int(index[1])) < self._choice_count:  # ignore choices that were not requested
                self._record(choice, found.prompt_tokens, found.completion_tokens)
        return self._total_usage or (_NULL_USAGES[0] if self._uncounted else self._sum())

    def _note_null(self, event: bytes, choice: int) -> None:
        if -1 <= choice < self._choice_count and choice not in self._uncounted and may_have_text(event):
            self._uncounted.add(choice)

    def _record(self, choice: int, prompt: int, completion: int) -> None:
        self._uncounted.discard(choice)
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
