"""The state of a training as one safetensors file: adapter, optimizer, random numbers, position. Nothing in it is code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file

__all__ = ["load_state", "save_adapter", "save_state"]

_ADAPTER, _OPTIMIZER, _RANDOM = "adapter.", "optimizer.", "random.cpu"


def save_adapter(model: Any, path: Path) -> None:
    """The adapter alone, as engines load it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(model).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def save_state(path: Path, model: Any, optimizer: torch.optim.Optimizer, position: Mapping[str, Any]) -> None:
    """`position`: JSON values from which the training continues."""
    tensors = {_ADAPTER + name: value.detach().cpu() for name, value in get_peft_model_state_dict(model).items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{_OPTIMIZER}{index}.{name}"] = torch.as_tensor(value).detach().cpu()
    tensors[_RANDOM] = torch.get_rng_state()
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt", "position": json.dumps(dict(position))})


def load_state(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state into a model and an optimizer that were made as the saved ones; returns its position."""
    adapter: dict[str, torch.Tensor] = {}
    states: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        position: dict[str, Any] = json.loads(file.metadata()["position"])
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            value = file.get_tensor(key)
            if key.startswith(_ADAPTER):
                adapter[key.removeprefix(_ADAPTER)] = value
            elif key.startswith(_OPTIMIZER):
                index, name = key.removeprefix(_OPTIMIZER).split(".")
                states.setdefault(int(index), {})[name] = value
            else:
                torch.set_rng_state(value)
    set_peft_model_state_dict(model, adapter)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return position
