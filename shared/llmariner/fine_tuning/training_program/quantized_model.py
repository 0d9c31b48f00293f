"""A base model whose weights are held in 4 bits while an adapter for it is trained (Dettmers et al., 2023: QLoRA)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["hide_quantization", "load_quantized", "refuse_quantized"]

_PACKAGE = "bitsandbytes"


def hide_quantization() -> None:
    """Have PEFT and Transformers do without the package of quantization, which takes them seconds to import.

    For a process that has imported neither of them yet.
    """
    sys.modules.setdefault(_PACKAGE, None)  # type: ignore[arg-type]


def refuse_quantized(folder: Path) -> None:
    """Raises ValueError for the folder of a model whose weights are quantized already: no gradient is of them."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("quantization_config") or config.get("compression_config"):
        raise ValueError("the weights of the base model are quantized already: name the model that was quantized")


def load_quantized(folder: Path) -> Any:
    """The model of a folder: the weights of linear layers in NF4 with quantized scales, all others in 32 bits.

    Raises ValueError where the package of quantization is missing.
    """
    try:
        from bitsandbytes.nn import Linear4bit  # type: ignore[import-not-found]
    except ImportError as error:
        raise ValueError(f"the environment of trainings does not have the package {_PACKAGE}: use lora") from error
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    scheme = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        quantization_config=scheme,
        device_map={"": "cpu"},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # An evaluation would else repack the weights for kernels that have no gradients and round to 16 bits, on some
            # processors and for good.
            module.support_avx512bf16_for_cpu = False
    print(f"The base model takes {model.get_memory_footprint() / 1e6:.1f} MB, its linear layers in 4 bits.", flush=True)
    return model
