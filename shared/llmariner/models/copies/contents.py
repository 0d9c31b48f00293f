"""The manifest of a copy, and what the copied files say of the model."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmariner.models.copies.blobs import chunks_of
from llmariner.models.copies.records import CopyFile
from llmariner.models.formats import MAX_HEADER_BYTES, Format, check_safetensors, is_weights, read_json
from llmariner.models.inspection import SMALL_FILES, folder_task, folder_traits
from llmariner.models.model import Model
from llmariner.models.weights import FetchedWeights
from llmariner.platform.database import Database
from llmariner.platform.model_files import FilesUnavailable
from llmariner.platform.model_files.copy_scheme import COPY_SCHEME
from llmariner.platform.model_files.object_copy import ManifestFile, manifest_key
from llmariner.platform.objects import ObjectStore

if TYPE_CHECKING:
    from llmariner.models.gguf.conversion import GgufConversion

__all__ = ["inspected_copy", "stored_conversion", "write_manifest"]

# As objects of Python, JSON may be 25 times as large.
_MAX_SMALL_BYTES = 4 << 20


def write_manifest(
    database: Database, objects: ObjectStore, copy_id: str, files: Sequence[CopyFile]
) -> tuple[str, list[ManifestFile]]:
    """Write the manifest of a complete copy; returns the copy's URI and the files. The same again where it is there."""
    with database.read() as session:
        found = [
            ManifestFile(each.file.path, each.file.size, each.sha256, tuple(chunks_of(session, each.blob_id)))
            for each in files
        ]
    with objects.writer(manifest_key(copy_id)) as writer:
        writer.write(json.dumps([asdict(each) for each in found]).encode())
        writer.commit()
    return f"{COPY_SCHEME}{copy_id}", found


def stored_conversion(database: Database, objects: ObjectStore, each: CopyFile) -> GgufConversion:
    """The conversion of a GGUF file that is stored. FilesUnavailable, ObjectStoreUnavailable."""
    from llmariner.models.gguf.conversion import GgufConversion  # NumPy is for those that convert

    with database.read() as session:
        stored = ManifestFile(each.file.path, each.file.size, each.sha256, tuple(chunks_of(session, each.blob_id)))
    return GgufConversion(each.file.key, stored.size, lambda start, end: _read(objects, stored, start, end))


def inspected_copy(
    objects: ObjectStore,
    model: Model,
    manifest: tuple[str, list[ManifestFile]],
    revision: str,
    *,
    is_converted: bool = False,
) -> FetchedWeights:
    """Size, task and traits of a copied model. FilesUnavailable if no engine can serve it."""
    uri, files = manifest
    converted_from = Format.GGUF if is_converted else ""
    weights = [file for file in files if is_weights(file.path)]
    for file in weights:
        if file.path.endswith(".safetensors"):
            _check_header(objects, file)
    size = sum(file.size for file in weights)
    wanted = "config.json" if model.base_model_id is None else "adapter_config.json"
    small = [file for file in files if file.path in SMALL_FILES and file.size <= _MAX_SMALL_BYTES]
    if wanted not in {file.path for file in small}:
        raise FilesUnavailable(f"The location has no readable {wanted} beside its weights.")
    if model.base_model_id is not None:
        return FetchedWeights(uri, size, None)
    with tempfile.TemporaryDirectory(prefix="llmariner-model-") as place:
        folder = Path(place)
        for file in small:
            (folder / file.path).write_bytes(_read(objects, file, 0, file.size))
        traits = folder_traits(folder, read_json(folder / "config.json"))
        traits = replace(traits, revision=revision, converted_from=converted_from)
        return FetchedWeights(uri, size, folder_task(folder, traits), traits)


def _check_header(objects: ObjectStore, file: ManifestFile) -> None:
    length = int.from_bytes(_read(objects, file, 0, 8), "little")
    beginning = _read(objects, file, 0, 8 + min(length, MAX_HEADER_BYTES))
    check_safetensors(file.path, io.BytesIO(beginning), file.size)


def _read(objects: ObjectStore, file: ManifestFile, start: int, end: int) -> bytes:
    content = bytearray()
    for begin, size, key in file.chunks:
        first, last = max(start, begin), min(end, begin + size)
        if first < last:
            for data in objects.read(key, first - begin, last - first):
                content += data
    return bytes(content)
