"""A model of which all weights were trained: its folder as one archive, with the files of the base model beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from llmariner.fine_tuning.training_program.model_tar import WEIGHTS, other_files, write_archive

__all__ = ["number_format", "save_model"]


def number_format(base: Path) -> torch.dtype:
    """That of the weights of a model's folder."""
    config = json.loads((base / "config.json").read_text())
    found = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) and found.is_floating_point else torch.bfloat16


def save_model(model: Any, base: Path, target: Path) -> None:
    """Write the archive of a model that was made from the folder `base`, in the number format of that."""
    work = target.with_name(f"{target.name}.folder")
    shutil.rmtree(work, ignore_errors=True)
    model.save_pretrained(work, state_dict=_converted(model, number_format(base)), max_shard_size="1000GB")
    write_archive([*other_files(base), work / WEIGHTS], target)
    shutil.rmtree(work)


def _converted(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in another format. Two names of the same weights keep the same ones, which are written once."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    return {
        name: made.setdefault((value.data_ptr(), value.shape), value.detach().to(dtype))
        for name, value in model.state_dict().items()
    }
