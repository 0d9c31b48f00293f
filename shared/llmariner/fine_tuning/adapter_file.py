"""Makes the folder of an adapter, as engines load it, of the file that a job uploaded. Nothing of a job is code here.

The configuration is written from the names and shapes of the tensors, so a job cannot say anything else in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["InvalidAdapter", "adapter_configuration", "write_adapter_folder"]

_MAX_HEADER_BYTES = 4 * 1024 * 1024
_BLOCK_BYTES = 65_536
_MAX_RANK = 16
"""Of engines: they refuse a larger one."""
_ALPHA_PER_RANK = 2
"""As jobs train them."""
_TENSOR = re.compile(r"base_model\.model\.(?:[A-Za-z0-9_]+\.)*([A-Za-z0-9_]+)\.lora_([AB])\.weight")
_TYPES = frozenset({"F32", "F16", "BF16"})


class InvalidAdapter(Exception):
    """The file is no adapter that an engine loads; the message says why."""


def write_adapter_folder(parts: Iterator[bytes], folder: Path, base_model: str) -> None:
    """Write the folder, which appears whole or not at all. Raises InvalidAdapter, OSError, and what `parts` raises."""
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        weights = work / "adapter_model.safetensors"
        with weights.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        with weights.open("rb") as file:
            config = adapter_configuration(iter(partial(file.read, _BLOCK_BYTES), b""), base_model)
        (work / "adapter_config.json").write_bytes(config)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def adapter_configuration(parts: Iterator[bytes], base_model: str) -> bytes:
    """The `adapter_config.json` of an adapter's file, of which the beginning is read. Raises InvalidAdapter."""
    return _written(_configuration(_header(_beginning(parts)), base_model))


def _beginning(parts: Iterator[bytes]) -> bytes:
    """The length of the header in 8 bytes, and the header, or what there is of it."""
    beginning = bytearray()
    for part in parts:
        beginning += part
        if len(beginning) >= 8 and len(beginning) >= 8 + min(_MAX_HEADER_BYTES, struct.unpack("<Q", beginning[:8])[0]):
            break
    return bytes(beginning)


def _header(beginning: bytes) -> dict[str, Any]:
    """The header of a safetensors file: its length in 8 bytes, then JSON."""
    length = struct.unpack("<Q", beginning[:8])[0] if len(beginning) >= 8 else 0
    if not 0 < length <= _MAX_HEADER_BYTES:
        raise InvalidAdapter("it is no safetensors file")
    try:
        header = json.loads(beginning[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter("its header is no JSON") from error
    if not isinstance(header, dict):
        raise InvalidAdapter("its header is no JSON object")
    header.pop("__metadata__", None)
    return header


def _written(configuration: dict[str, Any]) -> bytes:
    return json.dumps(configuration, indent=2).encode()


def _configuration(header: dict[str, Any], base_model: str) -> dict[str, Any]:
    ranks, modules = set(), set()
    for name, tensor in header.items():
        matched = _TENSOR.fullmatch(name)
        if matched is None:
            raise InvalidAdapter(f"its tensor '{name[:100]}' is none of an adapter")
        shape, type_ = (tensor.get("shape"), tensor.get("dtype")) if isinstance(tensor, dict) else (None, None)
        if not isinstance(shape, list) or [type(each) for each in shape] != [int, int] or str(type_) not in _TYPES:
            raise InvalidAdapter(f"its tensor '{name[:100]}' has no shape of an adapter")
        ranks.add(shape[0 if matched[2] == "A" else 1])
        modules.add(matched[1])
    if len(ranks) != 1 or not 0 < (rank := ranks.pop()) <= _MAX_RANK:
        raise InvalidAdapter("its rank is none that engines load")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": _ALPHA_PER_RANK * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "inference_mode": True,
    }
