"""Small files in the formats of models."""

from __future__ import annotations

import json
import random
import struct

__all__ = ["CONFIG", "gguf", "safetensors"]

CONFIG = json.dumps({"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}).encode()


def safetensors(size: int = 1000, seed: int = 1) -> bytes:
    """One tensor of `size` bytes of noise."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor, "__metadata__": {"format": "pt"}}).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def gguf(architecture: str = "llama", size: int = 1000, shape: tuple[int, ...] = ()) -> bytes:
    """A header with a few entries before the architecture, and noise; with `shape`, the description of a tensor first."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    entries = [
        text("general.file_type") + struct.pack("<II", 4, 7),
        text("general.tags") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("bc"),
        text("general.architecture") + struct.pack("<I", 8) + text(architecture),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(entries))
    tensor = text("t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 2, 0) if shape else b""
    return head + b"".join(entries) + tensor + random.Random(2).randbytes(size)
