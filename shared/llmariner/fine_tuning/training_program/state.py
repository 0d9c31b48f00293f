"""The state of a training as one safetensors file: parameters, optimizer, position. Nothing in it is code.

Random numbers are no part of it: those of each example follow from the seed (`losses`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file

__all__ = ["load_state", "save_adapter", "save_state"]

_PARAMETER, _OPTIMIZER = "parameter.", "optimizer."


def save_adapter(model: Any, path: Path) -> None:
    """The adapter alone, as engines load it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(model).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def save_state(path: Path, model: Any, optimizer: torch.optim.Optimizer, position: Mapping[str, Any]) -> None:
    """`position`: JSON values from which the training continues."""
    tensors = {_PARAMETER + name: value.detach().cpu() for name, value in _trained(model).items()}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{_OPTIMIZER}{index}.{name}"] = torch.as_tensor(value).detach().cpu()
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt", "position": json.dumps(dict(position))})


def load_state(path: Path, model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a state into a model and an optimizer that were made as the saved ones; returns its position."""
    parameters = _trained(model)
    states: dict[int, dict[str, torch.Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        position: dict[str, Any] = json.loads(file.metadata()["position"])
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            value = file.get_tensor(key)
            if key.startswith(_PARAMETER):
                with torch.no_grad():
                    parameters[key.removeprefix(_PARAMETER)].copy_(value)
            else:
                index, name = key.removeprefix(_OPTIMIZER).split(".")
                states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return position


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
