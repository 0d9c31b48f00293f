"""The options for the size of chunks, and OpenAI's `chunking_strategy` of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["chunk_options", "chunking_strategy"]

CommandFunction = TypeVar("CommandFunction", bound=Callable[..., Any])

_DEFAULT_CHUNK_TOKENS = 800
_OPTIONS = (
    click.option(
        "--chunk-tokens",
        metavar="N",
        type=click.IntRange(100, 4096),
        help="Tokens of a chunk at most, 100 to 4096. Default: 800.",
    ),
    click.option(
        "--overlap-tokens",
        metavar="N",
        type=click.IntRange(min=0),
        help="Tokens that a chunk repeats of the one before, at most half a chunk. Default: half.",
    ),
)


def chunk_options(command: CommandFunction) -> CommandFunction:
    """Add `--chunk-tokens` and `--overlap-tokens`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chunking_strategy(chunk_tokens: int | None, overlap_tokens: int | None) -> dict[str, Any] | None:
    """The `static` strategy of these numbers; None if neither is given. UsageError for too much overlap."""
    if chunk_tokens is None and overlap_tokens is None:
        return None
    size = _DEFAULT_CHUNK_TOKENS if chunk_tokens is None else chunk_tokens
    overlap = size // 2 if overlap_tokens is None else overlap_tokens
    if overlap > size // 2:
        raise click.UsageError(f"--overlap-tokens is at most half of a chunk, here {size // 2}.")
    return {"type": "static", "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}}
