"""Which files of a model's folder are for engines beside the weights, by the endings of their names.

One rule for all ways by which a model comes: fetched, copied, read by a job, and written by one that trains all weights. It
allows configurations, tokenizers in any of their forms, chat templates and processors of other inputs. What it does not name
stays where it is: weights of other frameworks (`.onnx`, `.h5`, `.msgpack`), pickles, code, pictures.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

__all__ = ["PATTERNS", "is_for_engines"]

PATTERNS = (
    *("*.json", "*.jinja", "*.txt"),
    # SentencePiece, also in the versions that Mistral publishes; tiktoken; vocabularies and merges of older tokenizers.
    *("*.model", "*.model.v[0-9]*", "*.spm", "*.tiktoken", "*.vocab", "*.bpe", "*.codes"),
)
"""Patterns of `fnmatch`, as the Hub's client takes them."""


def is_for_engines(path: str) -> bool:
    """Whether engines read the file at that path, which is no weights."""
    return any(fnmatchcase(path, pattern) for pattern in PATTERNS)
