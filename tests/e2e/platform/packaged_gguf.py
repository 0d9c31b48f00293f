"""The packaged chat model as a GGUF file in bfloat16, from which a conversion makes the same weights again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["gguf_of"]

_tiny = importlib.import_module("...standalone.tiny_model_files", __package__)
_BFLOAT16 = 30
_CONTROL = 3
_TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_of(folder: Path) -> bytes:
    """The content of the file. `folder`: of a Llama model with tied embeddings, in bfloat16."""
    config = json.loads((folder / "config.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(weights[:8], "little")
    entries: dict[str, Any] = json.loads(weights[8:begin])
    del entries["__metadata__"]
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    shapes, data = {}, []
    for name, entry in sorted(entries.items(), key=lambda each: each[1]["data_offsets"]):
        named, shape, (start, end) = _name(name), tuple(entry["shape"]), entry["data_offsets"]
        numbers = np.frombuffer(weights[begin + start : begin + end], "<u2").reshape(shape)
        if number := heads.get(named.split(".")[-2], 0):
            numbers = numbers.reshape(number, 2, -1, shape[-1]).swapaxes(1, 2)
        shapes[named] = shape
        data.append(numbers.tobytes())
    return b"".join([_tiny.gguf_beginning(_metadata(folder, config), shapes, _BFLOAT16, 2), *data])


def _name(name: str) -> str:
    if name in _TENSORS:
        return _TENSORS[name]
    _, _, layer, of_layer = name.split(".", 3)
    return f"blk.{layer}.{_TENSORS[of_layer]}"


def _metadata(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {each["id"] for each in tokenizer["added_tokens"]}
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    return {
        "general.architecture": "llama",
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": config["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": tokenizer["model"]["merges"],
        "tokenizer.ggml.token_type": [_CONTROL if number in special else 1 for number in range(len(tokens))],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": config["pad_token_id"],
        "tokenizer.chat_template": (folder / "chat_template.jinja").read_text(),
    }
