"""Formats of weights, recognized by the content of files: which files of a location a model needs, and what a folder holds.

Names and contents are untrusted. Pickles run code when they are loaded, so they are refused unless the operator allows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO

from llmariner.model_file_names import is_for_engines
from llmariner.platform.model_files import FilesUnavailable, RemoteFile

__all__ = [
    "MAX_HEADER_BYTES",
    "Format",
    "check_safetensors",
    "choose_files",
    "folder_format",
    "has_gguf",
    "is_weights",
    "read_json",
    "weight_files",
]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_GGUF_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.ASCII)
# As objects of Python, JSON may be 25 times as large.
MAX_HEADER_BYTES = _MAX_JSON_BYTES = 16 << 20


class Format(StrEnum):
    """LLMariner's names of formats."""

    HUGGING_FACE = "HUGGING_FACE"
    GGUF = "GGUF"
    NVIDIA_TRITON = "NVIDIA_TRITON"
    OLLAMA = "OLLAMA"


def choose_files(files: Sequence[RemoteFile], only: str, *, pickles_allowed: bool) -> list[RemoteFile]:
    """The files that an engine needs of a location. `only`: the one weights file that is wanted; empty: the model's.

    FilesUnavailable where there are no weights, several models, or pickles only.
    """
    if only:
        return _single(files, only, pickles_allowed)
    safetensors = [file for file in files if file.path.endswith(".safetensors")]
    if safetensors:
        return _hugging_face(files, _without_duplicates(safetensors))
    if gguf := [file for file in files if file.path.endswith(".gguf")]:
        return _one_gguf(gguf)
    if any(file.path.rpartition("/")[2] == "config.pbtxt" for file in files):
        return list(files)
    pickles = [file for file in files if file.path.endswith(_PICKLES)]
    if pickles and pickles_allowed:
        return _hugging_face(files, pickles)
    raise FilesUnavailable(_no_weights(pickles))


def has_gguf(files: Sequence[RemoteFile]) -> bool:
    """Whether the files of a model are to be converted."""
    return any(file.path.endswith(".gguf") for file in files)


def folder_format(folder: Path, *, pickles_allowed: bool) -> Format:
    """The format of a folder, from the content of its files. FilesUnavailable for none, and for damaged files."""
    names = [path for path in folder.rglob("*") if path.is_file()]
    safetensors = [path for path in names if path.suffix == ".safetensors"]
    for path in safetensors:
        with path.open("rb") as file:
            check_safetensors(path.name, file, path.stat().st_size)
    if safetensors:
        return Format.HUGGING_FACE
    if gguf := [path for path in names if path.suffix == ".gguf"]:
        for path in gguf:
            _check_gguf(path)
        return Format.OLLAMA if (folder / "ollama_template.txt").is_file() else Format.GGUF
    if any(path.name == "config.pbtxt" for path in names):
        return Format.NVIDIA_TRITON
    pickles = [path for path in names if path.suffix in _PICKLES]
    if pickles and pickles_allowed:
        return Format.HUGGING_FACE
    raise FilesUnavailable(_no_weights(pickles))


def check_safetensors(name: str, file: BinaryIO, size: int) -> None:
    """FilesUnavailable unless the beginning of a file of `size` bytes is that of tensors.

    https://huggingface.co/docs/safetensors: a length of 8 bytes, a JSON header, the tensors.
    """
    try:
        _check_header(file, size)
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise FilesUnavailable(
            f"{name} is named .safetensors, and its content is none. Fetch the model again, or ask who published it."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """The files with weights in a folder."""
    return [path for path in folder.rglob("*") if is_weights(path.name) and path.is_file()]


def is_weights(name: str) -> bool:
    """Whether a file has weights, by its name."""
    return name.endswith((".safetensors", ".gguf", *_PICKLES))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file. FilesUnavailable for anything else."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise FilesUnavailable(f"{path.name} is over {_MAX_JSON_BYTES >> 20} MiB.")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FilesUnavailable(f"{path.name} is no readable JSON.") from error
    if not isinstance(value, dict):
        raise FilesUnavailable(f"{path.name} is no JSON object.")
    return value


def _single(files: Sequence[RemoteFile], only: str, pickles_allowed: bool) -> list[RemoteFile]:
    found = next((file for file in files if file.path == only), None)
    if found is None:
        names = ", ".join(file.path for file in files if file.path.endswith((".gguf", ".safetensors")))
        raise FilesUnavailable(
            f"There is no file '{only[:200]}' at the location. Its weights: {names[:600] or 'none'}."
        )
    if only.endswith(".gguf"):
        return _one_gguf([file for file in files if file.path == only or _gguf_name(file.path) == _gguf_name(only)])
    if only.endswith(".safetensors") or (pickles_allowed and only.endswith(_PICKLES)):
        return _hugging_face(files, [found])
    raise FilesUnavailable(_no_weights([only] if only.endswith(_PICKLES) else []))


def _hugging_face(files: Sequence[RemoteFile], weights: Sequence[RemoteFile]) -> list[RemoteFile]:
    names = {file.path for file in weights}
    kept = [file for file in files if file.path in names or is_for_engines(file.path)]
    if not any(file.path in ("config.json", "adapter_config.json") for file in kept):
        raise FilesUnavailable(
            "The location has no config.json beside its weights: it must be a Hugging Face model folder."
        )
    return kept


def _without_duplicates(safetensors: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Without the copies that some publishers add in their own layout."""
    others = [file for file in safetensors if not file.path.startswith(("consolidated", "original/"))]
    return others or list(safetensors)


def _one_gguf(gguf: Sequence[RemoteFile]) -> list[RemoteFile]:
    models = sorted({_gguf_name(file.path) for file in gguf})
    main = [file for file in gguf if file.path == "model.gguf"]
    if len(models) > 1 and not main:
        raise FilesUnavailable(
            f"The location has {len(models)} models in GGUF. Name one file as the location, as owner/name/file: "
            f"{', '.join(models)[:600]}."
        )
    return list(gguf)


def _gguf_name(path: str) -> str:
    """The name that all parts of a divided file have in common."""
    found = _GGUF_PART.fullmatch(path)
    return f"{found[1]}.gguf" if found else path


def _no_weights(pickles: Sequence[object]) -> str:
    if pickles:
        return (
            "The weights are pickles, which run code when they are loaded. Use a repository with .safetensors files; the "
            "operator allows pickles with LLMARINER_MODEL_PICKLES=1."
        )
    return "There are no weights: neither .safetensors, .gguf nor a Triton model repository."


def _check_header(file: BinaryIO, size: int) -> None:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError("length")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise TypeError("header")
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        if not 0 <= begin <= end <= size - 8 - length:
            raise ValueError(name)


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise FilesUnavailable(f"{path.name} is named .gguf, and its content is none.")
