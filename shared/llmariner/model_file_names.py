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
    # SentencePiece; tiktoken; vocabularies and merges of older tokenizers.
    *("*.model", "*.spm", "*.tiktoken", "*.vocab", "*.bpe", "*.codes"),
    # Versions of Mistral's, `.v3`, `.v11`, `.v7m1`. No `*` at an end: it would allow `.v3.bin`, and any file of a folder.
    *(f"*.model.v{number}{part}" for number in ("[0-9]", "[0-9][0-9]") for part in ("", "m[0-9]")),
)
"""Patterns of `fnmatch`, as the Hub's client takes them."""


def is_for_engines(path: str) -> bool:
    """Whether engines read the file at that path, which is no weights."""
    return any(fnmatchcase(path, pattern) for pattern in PATTERNS)
