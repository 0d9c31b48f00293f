"""The tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

The format of the first is that of the library `tokenizers` (https://huggingface.co/docs/tokenizers). How a text is split
before its tokens are looked up is not in a GGUF file: `tokenizer.ggml.pre` names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmariner.models.gguf.header import GgufHeader
from llmariner.platform.model_files import FilesUnavailable

__all__ = ["chat_template", "special_token_ids", "tokenizer_files"]

_KEY = "tokenizer.ggml."
_MAX_TOKENS = 1_000_000
_MAX_TOKEN_LENGTH = 4_096
_MAX_PAIRED_LENGTH = 64
_MAX_PAIRS = 1_000_000
"""Of tokens that are a token together, where a file has scores alone: each takes 300 bytes. Gemma has 580,000."""
_MAX_SPLITS = 6 << 20
"""Of tokens into two, where a file has scores alone: two seconds of a processor, and 24 characters of 256,000 tokens."""
_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "▁"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}"
_QWEN_2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}"


@dataclass(frozen=True)
class _Split:
    """How text is split. `pattern` empty: as GPT-2 does. `whole_words`: a word that is a token is not put together."""

    pattern: str = ""
    digits: bool = False
    normalized: bool = False
    whole_words: bool = False
    begins: bool = False


_GPT_2 = _Split()
_SPLITS = {
    "": _GPT_2,
    "default": _GPT_2,
    "gpt-2": _GPT_2,
    "smollm": _Split(digits=True),
    "llama-bpe": _Split(_LLAMA_3, whole_words=True, begins=True),
    "llama3": _Split(_LLAMA_3, whole_words=True, begins=True),
    "llama-v3": _Split(_LLAMA_3, whole_words=True, begins=True),
    "qwen2": _Split(_QWEN_2, normalized=True),
    "deepseek-r1-qwen": _Split(_QWEN_2, normalized=True),
}


def tokenizer_files(header: GgufHeader) -> dict[str, bytes]:
    """`tokenizer.json` and `tokenizer_config.json`. FilesUnavailable for a tokenizer that can't be converted."""
    model, tokens = header.metadata.get(f"{_KEY}model"), _tokens(header)
    if model == "gpt2":
        document = _byte_pairs(header, tokens)
    elif model == "llama":
        document = _sentence_pieces(header, tokens)
    else:
        raise FilesUnavailable(_unknown("tokenizer", model))
    document = {"version": "1.0", "truncation": None, "padding": None, **document}
    document["added_tokens"] = _added_tokens(header, tokens)
    return {
        "tokenizer.json": json.dumps(document, ensure_ascii=False).encode("utf-8", errors="replace"),
        "tokenizer_config.json": json.dumps(_configuration(header, tokens), ensure_ascii=False).encode(),
    }


def special_token_ids(header: GgufHeader) -> dict[str, Any]:
    """`bos_token_id` and so on, as configurations of models have them. Several ids end an answer where the file says so."""
    count = len(_tokens(header))
    found: dict[str, Any] = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        number = _token_id(header, key, count)
        if number is not None:
            found[f"{name}_token_id"] = number
    ends = {found.get("eos_token_id"), _token_id(header, "eot", count), _token_id(header, "eom", count)} - {None}
    if len(ends) > 1:
        found["eos_token_id"] = sorted(ends)
    return found


def chat_template(header: GgufHeader) -> str:
    """The chat template; empty where the file has none."""
    found = header.metadata.get("tokenizer.chat_template")
    return found if isinstance(found, str) else ""


def _tokens(header: GgufHeader) -> Sequence[str]:
    found = header.metadata.get(f"{_KEY}tokens")
    if not isinstance(found, list) or not 0 < len(found) <= _MAX_TOKENS:
        raise FilesUnavailable("The GGUF file has no tokenizer. Use a Hugging Face repository of the same model.")
    if not all(isinstance(token, str) and len(token) <= _MAX_TOKEN_LENGTH for token in found):
        raise FilesUnavailable("The GGUF file's tokenizer has tokens that are no texts.")
    return found


def _unknown(what: str, name: object) -> str:
    said = name[:40] if isinstance(name, str) and name[:40].isprintable() else "unknown"
    return (
        f"The GGUF file has the {what} '{said}', which can't be converted for the engine. Use a Hugging Face repository of "
        "the same model."
    )


def _byte_pairs(header: GgufHeader, tokens: Sequence[str]) -> dict[str, Any]:
    name = header.metadata.get(f"{_KEY}pre", "")
    split = _SPLITS.get(name) if isinstance(name, str) else None
    if split is None:
        raise FilesUnavailable(_unknown("pre-tokenizer", name))
    merges = header.metadata.get(f"{_KEY}merges")
    if not isinstance(merges, list):
        raise FilesUnavailable("The GGUF file's tokenizer has no merges.")
    vocabulary = _vocabulary(tokens)
    # As texts: lists of two take four times the memory.
    pairs = [merge for merge in merges if isinstance(merge, str) and _is_pair(merge.split(" ", 2), vocabulary)]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "normalizer": {"type": "NFC"} if split.normalized else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _before_bytes(split, bytes_)},
        "post_processor": _beginning(header, tokens, split.begins),
        "decoder": bytes_ | {"use_regex": True},
        "model": _model(vocabulary, pairs, ignore_merges=split.whole_words),
    }


def _before_bytes(split: _Split, bytes_: Mapping[str, Any]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    if split.digits:
        parts.append({"type": "Digits", "individual_digits": True})
    if split.pattern:
        pattern = {"Regex": split.pattern}
        parts.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    return [*parts, {**bytes_, "use_regex": not split.pattern}]


def _is_pair(halves: Sequence[str], vocabulary: Mapping[str, int]) -> bool:
    return len(halves) == 2 and halves[0] in vocabulary and halves[1] in vocabulary and "".join(halves) in vocabulary


def _sentence_pieces(header: GgufHeader, tokens: Sequence[str]) -> dict[str, Any]:
    vocabulary = _vocabulary(tokens)
    prefix = header.metadata.get(f"{_KEY}add_space_prefix", True) is not False
    normalizers: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = _token_id(header, "unknown", len(tokens))
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": _beginning(header, tokens, by_default=True),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(
            vocabulary,
            _scored_pairs(header, vocabulary, tokens),
            unk_token=tokens[0 if unknown is None else unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _scored_pairs(header: GgufHeader, vocabulary: Mapping[str, int], tokens: Sequence[str]) -> list[list[str]]:
    """The pairs of tokens that are a token together, that with the highest score first."""
    scores = header.metadata.get(f"{_KEY}scores")
    if not isinstance(scores, list) or len(scores) != len(tokens) or not all(isinstance(x, float) for x in scores):
        raise FilesUnavailable("The GGUF file's tokenizer has no scores.")
    if sum(min(len(token), _MAX_PAIRED_LENGTH) for token in tokens) > _MAX_SPLITS:
        raise FilesUnavailable("The GGUF file's tokenizer has more or longer tokens than are converted.")
    found: list[tuple[float, int, int, int, list[str]]] = []
    for number, token in enumerate(tokens):
        for at in range(1, min(len(token), _MAX_PAIRED_LENGTH)):
            left, right = vocabulary.get(token[:at]), vocabulary.get(token[at:])
            if left is not None and right is not None:
                found.append((-float(scores[number]), number, left, right, [token[:at], token[at:]]))
        if len(found) > _MAX_PAIRS:
            raise FilesUnavailable("The GGUF file's tokenizer has more pairs of tokens than are converted.")
    return [pair for *_, pair in sorted(found)]


def _vocabulary(tokens: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise FilesUnavailable("The GGUF file's tokenizer has a token twice.")
    return vocabulary


def _model(vocabulary: Mapping[str, int], pairs: Sequence[object], **said: Any) -> dict[str, Any]:
    blank = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    no = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {"type": "BPE", **blank, **no, **said, "vocab": vocabulary, "merges": pairs}


def _beginning(header: GgufHeader, tokens: Sequence[str], by_default: bool) -> dict[str, Any] | None:
    """What puts the first token before a text; None where a text has none."""
    wanted = header.metadata.get(f"{_KEY}add_bos_token", by_default)
    number = _token_id(header, "bos", len(tokens))
    if wanted is not True or number is None:
        return None
    token = tokens[number]
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text, other = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    again = {"SpecialToken": {"id": token, "type_id": 1}}
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, again, other],
        "special_tokens": special,
    }


def _added_tokens(header: GgufHeader, tokens: Sequence[str]) -> list[dict[str, Any]]:
    """Those that are found in a text before it is split."""
    kinds = header.metadata.get(f"{_KEY}token_type")
    if not isinstance(kinds, list):
        kinds = []
    named = {_token_id(header, key, len(tokens)) for key in ("bos", "eos", "eot", "eom", "padding")}
    blank = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    found = []
    for number, token in enumerate(tokens):
        kind = kinds[number] if number < len(kinds) else 0
        if token and (kind in (_CONTROL, _USER_DEFINED) or number in named):
            found.append({"id": number, "content": token, **blank, "special": kind != _USER_DEFINED})
    return found


def _configuration(header: GgufHeader, tokens: Sequence[str]) -> dict[str, Any]:
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = _token_id(header, key, len(tokens))
        if number is not None:
            said[f"{name}_token"] = tokens[number]
    # Those whose turns have an end of their own stop there.
    end = _token_id(header, "eot", len(tokens))
    if end is not None:
        said["eos_token"] = tokens[end]
    if (context := header.number("context_length")) is not None:
        said["model_max_length"] = int(context)
    return said


def _token_id(header: GgufHeader, key: str, count: int) -> int | None:
    found = header.metadata.get(f"{_KEY}{key}_token_id")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < count else None
