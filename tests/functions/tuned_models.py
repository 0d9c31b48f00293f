"""Tuned models as a cluster has them: a file of the platform, and a registered model whose weights are in it."""

from __future__ import annotations

import json
import struct

from llmariner.context import Context
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.adapter_tokens import adapter_token
from llmariner.models.model import Model, NewModel, SourceRepository, Task
from llmariner.models.weights import StorageUriFetcher
from llmariner.tenancy.principal import KeyOwner

__all__ = ["WEIGHTS", "token_of", "tuned_model"]

_TENSORS = {
    f"base_model.model.layers.0.q_proj.lora_{half}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
    for half, shape in (("A", [8, 64]), ("B", [64, 8]))
}
_HEADER = json.dumps(_TENSORS).encode()
WEIGHTS = struct.pack("<Q", len(_HEADER)) + _HEADER + bytes(3 << 20)
"""A file with an adapter of rank 8."""


def tuned_model(context: Context, owner: KeyOwner, name: str, base: str, content: bytes = WEIGHTS) -> Model:
    """A model that a job made, loaded as on a cluster."""
    with context.files.receive(owner, purpose=None, size_bytes=0, limit_bytes=2**30) as incoming:
        incoming.write(content)
        new = NewFile("adapter_model.safetensors", Purpose.FINE_TUNE_RESULTS, "application/octet-stream")
        file = context.files.save(owner, new, incoming)
    made = context.registry.create(NewModel(name, SourceRepository.FINE_TUNING, file.id, base, owner.project_id))
    folder = StorageUriFetcher().fetch(made, lambda _progress: None).folder
    context.registry.mark_loaded(made.id, folder=folder, size_bytes=0, task=Task.GENERATE)
    return context.registry.get(made.id)


def token_of(context: Context, model: Model) -> str:
    """The token that the engine of a model has."""
    return adapter_token(context.secrets.of_links[0], model)
