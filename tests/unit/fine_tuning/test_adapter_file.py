"""Folders of adapters: made of the tensors of a file alone, and of no file that is anything else."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.fine_tuning.adapter_file import InvalidAdapter, write_adapter_folder

LAYER = "base_model.model.model.layers.0.self_attn"
TENSORS = {
    f"{LAYER}.{module}.lora_{half}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    for module in ("q_proj", "v_proj")
    for half, shape in (("A", [8, 64]), ("B", [64, 8]))
}


def safetensors(header: Any) -> bytes:
    """A file with that header and no data."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def written(content: bytes, folder: Path) -> dict[str, Any]:
    """The configuration of the folder."""
    write_adapter_folder(iter([content[:5], content[5:]]), folder, "smol")
    found: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return found


def test_the_configuration_follows_from_the_tensors(tmp_path: Path) -> None:
    content = safetensors({**TENSORS, "__metadata__": {"auto_mapping": "evil", "r": "64"}})
    config = written(content, tmp_path / "a")
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (8, 16, ["q_proj", "v_proj"])
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "smol")
    assert "auto_mapping" not in config
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


NAME = next(iter(TENSORS))
REFUSED = {
    "nothing": b"",
    "a pickle": b"\x80\x04\x95" + b"x" * 99,
    "a header that is too long": struct.pack("<Q", 2**40) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 2) + b"{]",
    "a header that is too deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a list": safetensors([]),
    "no tensor": safetensors({}),
    "a tensor of a base model": safetensors({"model.embed_tokens.weight": TENSORS[NAME]}),
    "a path": safetensors({f"base_model.model.../../x.{NAME}": TENSORS[NAME]}),
    "a vector": safetensors({NAME: {"dtype": "F32", "shape": [8]}}),
    "no shape": safetensors({NAME: 8}),
    "another type": safetensors({NAME: {"dtype": "I8", "shape": [8, 64]}}),
    "a rank that engines refuse": safetensors({NAME: {"dtype": "F32", "shape": [32, 64]}}),
    "a rank that is no number": safetensors({NAME: {"dtype": "F32", "shape": ["8", 64]}}),
    "ranks that are lists": safetensors({NAME: {"dtype": "F32", "shape": [[8], 64]}}),
    "a rank that is true": safetensors({NAME: {"dtype": "F32", "shape": [True, 64]}}),
    "a type that is a list": safetensors({NAME: {"dtype": ["F32"], "shape": [8, 64]}}),
    "two ranks": safetensors({**TENSORS, NAME: {"dtype": "F32", "shape": [4, 64]}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_adapter_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter):
        written(REFUSED[name], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield safetensors(TENSORS)
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        write_adapter_folder(parts(), tmp_path / "a", "smol")
    assert list(tmp_path.iterdir()) == []
    written(safetensors(TENSORS), tmp_path / "a")
