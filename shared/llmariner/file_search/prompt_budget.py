"""The passages that fit into a model's context, counted in the model's own tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from llmariner.file_search.passages import Passage

__all__ = ["completion_reserve", "fitting"]

CountTokens = Callable[[Sequence[Passage]], Awaitable[int | None]]
_MAX_COUNTS = 8
_DEFAULT_COMPLETION = 1024
# A quoted passage also has a line with its key, number, name and page.
_LINE_BYTES = 128


def completion_reserve(max_tokens: int | None, context: int) -> int:
    """Tokens of the context that the passages leave to the answer: what the request allows, else up to a quarter."""
    return min(_DEFAULT_COMPLETION, context // 4) if max_tokens is None else max_tokens


async def fitting(passages: Sequence[Passage], room: int, max_tokens: int | None, count: CountTokens) -> list[Passage]:
    """The best passages whose prompt has at most `room` tokens, in their order.

    `max_tokens`: an upper bound of the prompt with all of them, None: unknown. `count` returns the tokens of the prompt with
    some of them, None: unknown; then a byte counts as a token. At most `_MAX_COUNTS` calls.
    """
    whole = list(passages)
    if not whole or (max_tokens is not None and max_tokens <= room):
        return whole
    total, base = await count(whole), await count([])
    if total is None or base is None:
        spare = room if max_tokens is None else room - (max_tokens - sum(map(_size, whole)))
        return _chosen(whole, spare, 1.0)
    if total <= room:
        return whole
    tokens_per_byte = (total - base) / sum(map(_size, whole))
    chosen = whole
    for counts in range(3, _MAX_COUNTS + 1):
        chosen = _chosen(chosen, room - base, tokens_per_byte)
        used = await count(chosen) if chosen else base
        if used is None:
            return _chosen(whole, room - base, 1.0)
        if used <= room or not chosen:
            return await _with_more(whole, chosen, room, count, _MAX_COUNTS - counts)
        # These passages have more tokens per byte than all together.
        tokens_per_byte = max(tokens_per_byte, (used - base) / sum(map(_size, chosen))) * 1.05
    return []


async def _with_more(
    passages: Sequence[Passage], chosen: Sequence[Passage], room: int, count: CountTokens, counts: int
) -> list[Passage]:
    """The chosen passages, and the best others that fit as well: their size was an estimate. At most `counts` calls."""
    kept = {id(passage) for passage in chosen}
    for passage in passages:
        if counts and id(passage) not in kept:
            counts -= 1
            more = [each for each in passages if id(each) in kept or each is passage]
            used = await count(more)
            if used is not None and used <= room:
                kept.add(id(passage))
    return [passage for passage in passages if id(passage) in kept]


def _chosen(passages: Sequence[Passage], room: int, tokens_per_byte: float) -> list[Passage]:
    """The passages that fit, the best first: where one is too long, a shorter one after it may fit."""
    chosen, used = [], 0.0
    for passage in passages:
        tokens = _size(passage) * tokens_per_byte
        if used + tokens <= room:
            chosen.append(passage)
            used += tokens
    return chosen


def _size(passage: Passage) -> int:
    return len(passage.text.encode(errors="replace")) + _LINE_BYTES
