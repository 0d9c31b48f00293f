"""The architectures of GGUF files that are converted: the configuration of a model, and where each of its tensors is.

Names of tensors and keys of metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmariner.models.gguf.blocks import BLOCKS, Floats, float32
from llmariner.models.gguf.header import GgufHeader, GgufTensor
from llmariner.models.gguf.tokenizer import special_token_ids
from llmariner.platform.model_files import FilesUnavailable

__all__ = ["CONVERTED_ARCHITECTURES", "TensorPlan", "configuration_files", "plan_tensors"]

_INSTEAD = "Use a Hugging Face repository of the same model."


@dataclass(frozen=True)
class _Architecture:
    """`rotated`: rows of a head's queries and keys are in another order in a GGUF file. `attention`: further tensors."""

    name: str
    model_type: str
    rotated: bool = False
    attention: Mapping[str, str] | None = None
    settings: Mapping[str, Any] | None = None


_BIASES = {f"attn_{name}.bias": f"self_attn.{name}_proj.bias" for name in ("q", "k", "v")}
_NORMS = {f"attn_{name}_norm.weight": f"self_attn.{name}_norm.weight" for name in ("q", "k")}
_ARCHITECTURES = {
    "llama": _Architecture("LlamaForCausalLM", "llama", True, settings={"attention_bias": False, "mlp_bias": False}),
    "qwen2": _Architecture("Qwen2ForCausalLM", "qwen2", attention=_BIASES, settings={"use_sliding_window": False}),
    "qwen3": _Architecture(
        "Qwen3ForCausalLM", "qwen3", attention=_NORMS, settings={"attention_bias": False, "use_sliding_window": False}
    ),
}
CONVERTED_ARCHITECTURES = frozenset(_ARCHITECTURES)

_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_OUTPUT, _HEAD = "output.weight", "lm_head.weight"
_FREQUENCIES = "rope_freqs.weight"
_MAX_LAYERS = 1_000
# Rows and heads are computed as a whole: these bound their memory. Llama 3.1 405B has 16,384, 53,248 and 128.
_MAX_HIDDEN, _MAX_MIDDLE, _MAX_HEAD, _MAX_HEAD_NUMBERS = 1 << 16, 1 << 18, 512, 1 << 22


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the folder. `heads`: its rows are those of so many heads, each in the order of a GGUF file; 0: are not."""

    name: str
    source: GgufTensor
    heads: int = 0


@dataclass(frozen=True)
class _Sizes:
    hidden: int
    middle: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int


def plan_tensors(header: GgufHeader) -> list[TensorPlan]:
    """The tensors of the folder, in its order. FilesUnavailable for a file that has others than its architecture."""
    architecture, sizes = _architecture(header), _sizes(header)
    shapes = _shapes(architecture, sizes)
    plans = [_whole(header, name, target, shapes) for name, target in _WHOLE.items()]
    if _OUTPUT in header.tensors:
        plans.append(_whole(header, _OUTPUT, _HEAD, shapes))
    layer = {**_LAYER, **(architecture.attention or {})}
    for number in range(sizes.layers):
        for name, target in layer.items():
            tensor = _checked(header, f"blk.{number}.{name}", shapes[name])
            heads = {"attn_q": sizes.heads, "attn_k": sizes.key_value_heads}.get(name.partition(".")[0], 0)
            plans.append(TensorPlan(f"model.layers.{number}.{target}", tensor, heads if architecture.rotated else 0))
    used = {plan.source.name for plan in plans} | {_FREQUENCIES}
    if others := sorted(header.tensors.keys() - used):
        raise FilesUnavailable(
            f"The GGUF file has {len(others)} tensors that no model of its architecture has, such as '{others[0][:80]}'. "
            f"{_INSTEAD}"
        )
    return plans


def configuration_files(header: GgufHeader, read: Callable[[GgufTensor], bytes]) -> dict[str, bytes]:
    """`config.json` and `generation_config.json`. `read`: the bytes of a small tensor. FilesUnavailable."""
    architecture, sizes = _architecture(header), _sizes(header)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _positive(header, "rope.freq_base", 10_000.0)}
    rope |= _rope_scaling(header, rope["rope_theta"], sizes.head, read)
    special = special_token_ids(header)
    config: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.middle,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "head_dim": sizes.head,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": int(_positive(header, "context_length")),
        "rms_norm_eps": _positive(header, "attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "tie_word_embeddings": _OUTPUT not in header.tensors,
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "dtype": "bfloat16",
        **(architecture.settings or {}),
        **special,
    }
    if rope["rope_type"] != "default":
        config["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return {
        "config.json": json.dumps(config, indent=1).encode(),
        "generation_config.json": json.dumps(special).encode(),
    }


def _architecture(header: GgufHeader) -> _Architecture:
    found = _ARCHITECTURES.get(header.architecture)
    if found is None or header.number("expert_count"):
        kind = "a mixture of experts" if found else f"the architecture '{header.architecture[:40] or 'unknown'}'"
        known = ", ".join(sorted(_ARCHITECTURES))
        raise FilesUnavailable(
            f"A GGUF file of {kind} can't be converted for the engine, which reads Hugging Face folders; dense models of "
            f"{known} can. {_INSTEAD}"
        )
    return found


def _sizes(header: GgufHeader) -> _Sizes:
    heads = int(_positive(header, "attention.head_count"))
    hidden = int(_positive(header, "embedding_length"))
    embedding = header.tensors.get("token_embd.weight")
    layers = int(_positive(header, "block_count"))
    if embedding is None or not 1 <= heads <= hidden or layers > _MAX_LAYERS:
        raise FilesUnavailable(f"The GGUF file's sizes contradict each other. {_INSTEAD}")
    head = _positive(header, "attention.key_length", _positive(header, "rope.dimension_count", hidden // heads))
    sizes = _Sizes(
        hidden=hidden,
        middle=int(_positive(header, "feed_forward_length")),
        layers=layers,
        heads=heads,
        key_value_heads=int(_positive(header, "attention.head_count_kv", heads)),
        head=int(head),
        vocabulary=embedding.shape[0],
    )
    if _positive(header, "rope.dimension_count", sizes.head) != sizes.head:
        raise FilesUnavailable(f"The GGUF file has heads of which a part is rotated. {_INSTEAD}")
    too_large = hidden > _MAX_HIDDEN or sizes.middle > _MAX_MIDDLE or heads * sizes.head > _MAX_MIDDLE
    if too_large or sizes.head * hidden > _MAX_HEAD_NUMBERS or not 2 <= sizes.head <= _MAX_HEAD or sizes.head % 2:
        raise FilesUnavailable(f"The GGUF file has rows or heads of a size that is not converted. {_INSTEAD}")
    return sizes


def _positive(header: GgufHeader, key: str, default: float | None = None) -> float:
    found = header.number(key)
    value = default if found is None else found
    if value is None or not 0 < value < 1 << 40:
        raise FilesUnavailable(f"The GGUF file says nothing usable about '{key}'. {_INSTEAD}")
    return value


def _shapes(architecture: _Architecture, sizes: _Sizes) -> dict[str, tuple[int, ...]]:
    queries, keys = sizes.heads * sizes.head, sizes.key_value_heads * sizes.head
    return {
        "token_embd.weight": (sizes.vocabulary, sizes.hidden),
        "output.weight": (sizes.vocabulary, sizes.hidden),
        "output_norm.weight": (sizes.hidden,),
        "attn_norm.weight": (sizes.hidden,),
        "attn_q.weight": (queries, sizes.hidden),
        "attn_k.weight": (keys, sizes.hidden),
        "attn_v.weight": (keys, sizes.hidden),
        "attn_q.bias": (queries,),
        "attn_k.bias": (keys,),
        "attn_v.bias": (keys,),
        "attn_q_norm.weight": (sizes.head,),
        "attn_k_norm.weight": (sizes.head,),
        "attn_output.weight": (sizes.hidden, queries),
        "ffn_norm.weight": (sizes.hidden,),
        "ffn_gate.weight": (sizes.middle, sizes.hidden),
        "ffn_up.weight": (sizes.middle, sizes.hidden),
        "ffn_down.weight": (sizes.hidden, sizes.middle),
    }


def _whole(header: GgufHeader, name: str, target: str, shapes: Mapping[str, tuple[int, ...]]) -> TensorPlan:
    return TensorPlan(target, _checked(header, name, shapes[name]))


def _checked(header: GgufHeader, name: str, shape: tuple[int, ...]) -> GgufTensor:
    """The tensor of that name. FilesUnavailable unless it has that shape, and a type that is read."""
    found = header.tensors.get(name)
    if found is None or found.shape != shape:
        said = "is missing" if found is None else f"has the shape {list(found.shape)}, not {list(shape)}"
        raise FilesUnavailable(f"The tensor '{name}' of the GGUF file {said}. {_INSTEAD}")
    block = BLOCKS.get(found.kind)
    if block is None or shape[-1] % block.elements:
        known = ", ".join(each.name for each in BLOCKS.values())
        raise FilesUnavailable(
            f"The tensor '{name}' of the GGUF file is quantized in a way that is not converted (type {found.kind} of ggml); "
            f"{known} are. {_INSTEAD}"
        )
    return found


def _rope_scaling(header: GgufHeader, base: float, head: int, read: Callable[[GgufTensor], bytes]) -> dict[str, Any]:
    """How positions beyond those of the first training are scaled; empty where they are not."""
    if (frequencies := header.tensors.get(_FREQUENCIES)) is not None:
        return _llama_3_scaling(_float32_of(frequencies, read, head // 2), base, head)
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "linear")
    if kind == "none":
        return {}
    if kind == "linear":  # files of 2023 have the older key
        factor = _positive(header, "rope.scaling.factor", _positive(header, "rope.scale_linear", 1.0))
        return {} if factor == 1 else {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        factor = _positive(header, "rope.scaling.factor")
        original = int(_positive(header, "rope.scaling.original_context_length"))
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise FilesUnavailable(f"The GGUF file scales positions in a way that is not converted. {_INSTEAD}")


def _float32_of(tensor: GgufTensor, read: Callable[[GgufTensor], bytes], count: int) -> Floats:
    """The numbers of a small tensor. FilesUnavailable unless it has `count` of them, as float32."""
    if tensor.shape != (count,) or tensor.kind != 0:
        raise FilesUnavailable(f"The tensor '{tensor.name[:80]}' of the GGUF file has another shape. {_INSTEAD}")
    return float32(tensor.kind, read(tensor))


def _llama_3_scaling(factors: Floats, base: float, head: int) -> dict[str, Any]:
    """Llama 3's scaling, of which a GGUF file has the result alone: the factor of each frequency."""
    low, high, original = 1.0, 4.0, 8192  # of all models that Meta published
    factor = float(factors.max())
    if not 0 < factor < np.inf:
        raise FilesUnavailable(f"The GGUF file scales positions by no number. {_INSTEAD}")
    wavelengths = 2 * np.pi * base ** (np.arange(0, head, 2) / head)
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    expected = np.where(smooth < 0, factor, np.where(smooth > 1, 1.0, between))
    if not np.allclose(factors, expected, rtol=1e-3):
        raise FilesUnavailable(f"The GGUF file scales positions in a way that is not converted. {_INSTEAD}")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
