"""Small files in the formats of models."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["CONFIG", "GGUF_SHAPES", "gguf_beginning", "gguf_model", "safetensors"]

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}).encode()


def safetensors(size: int = 1000, seed: int = 1) -> bytes:
    """One tensor of `size` bytes of noise."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor, "__metadata__": {"format": "pt"}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


_TYPES: tuple[tuple[type, int, str], ...] = ((bool, 7, "<?"), (int, 4, "<I"), (float, 6, "<f"))
GGUF_TOKENS = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 127)), "ab"]
GGUF_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 128,
    "llama.embedding_length": 64,
    "llama.block_count": 1,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 16,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": GGUF_TOKENS,
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.token_type": [1, 3, 3] + [1] * (len(GGUF_TOKENS) - 3),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{% for m in messages %}<tool_call>{{ m['content'] }}{% endfor %}",
}
GGUF_SHAPES = {
    "token_embd.weight": (len(GGUF_TOKENS), 64),
    "output_norm.weight": (64,),
    "blk.0.attn_norm.weight": (64,),
    "blk.0.attn_q.weight": (64, 64),
    "blk.0.attn_k.weight": (32, 64),
    "blk.0.attn_v.weight": (32, 64),
    "blk.0.attn_output.weight": (64, 64),
    "blk.0.ffn_norm.weight": (64,),
    "blk.0.ffn_gate.weight": (128, 64),
    "blk.0.ffn_up.weight": (128, 64),
    "blk.0.ffn_down.weight": (64, 128),
}


def gguf_model(
    metadata: Mapping[str, Any] = MappingProxyType({}),
    shapes: Mapping[str, tuple[int, ...]] = GGUF_SHAPES,
    kind: int = 0,
) -> bytes:
    """A whole model: one layer, numbers from -1 to 1 as float32. `metadata`: instead of `GGUF_METADATA`; None: without.

    `kind`: the type that tensors say they have.
    """
    said = {key: value for key, value in {**GGUF_METADATA, **metadata}.items() if value is not None}
    random_ = random.Random(3)
    data = b""
    for shape in shapes.values():
        count = math.prod(shape)
        data += struct.pack(f"<{count}f", *(random_.uniform(-1, 1) for _ in range(count)))
    return gguf_beginning(said, shapes, kind, bytes_per_number=4) + data


def gguf_beginning(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], kind: int, bytes_per_number: int
) -> bytes:
    """What is before the numbers of the tensors, which follow one another in the order of their shapes."""
    head, offset = b"", 0
    for name, shape in shapes.items():
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += _gguf_text(name) + sizes + struct.pack("<IQ", kind, offset)
        offset += math.prod(shape) * bytes_per_number
    entries = b"".join(_gguf_text(key) + _gguf_value(value) for key, value in metadata.items())
    start = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(metadata)) + entries + head
    return start + bytes(-len(start) % 32)


def _gguf_text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _gguf_value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _gguf_text(value)
    if isinstance(value, list):
        inner = [_gguf_value(each) for each in value]
        return (
            struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(inner)) + b"".join(each[4:] for each in inner)
        )
    kind, form = next((number, form) for type_, number, form in _TYPES if isinstance(value, type_))
    return struct.pack("<I", kind) + struct.pack(form, value)
