"""Writes a model with its linear layers rounded to 4 bits, then runs jobs in turn: BASE ROUNDED FOLDER [URL…]."""

import shutil
import sys
from pathlib import Path

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # type: ignore[import-not-found]
from runs_in_turn import run_in_turn  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM


def write_rounded(base: Path, target: Path) -> None:
    """Write the model in 32 bits, whose layers have the values that NF4 with quantized scales leaves of theirs."""
    shutil.copytree(base, target)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                small, state = quantize_4bit(layer.weight, quant_type="nf4", compress_statistics=True)
                layer.weight.copy_(dequantize_4bit(small, state))
    model.save_pretrained(target)


if __name__ == "__main__":
    write_rounded(Path(sys.argv[1]), Path(sys.argv[2]))
    run_in_turn(sys.argv[3], sys.argv[4:])
