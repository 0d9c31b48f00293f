"""A GGUF file as the files of a Hugging Face folder, any range of which is computed from some ranges of the GGUF file.

So a conversion takes little memory, and may be interrupted at any byte. The weights become bfloat16 in one .safetensors
file, whose size is known before the first of them is read.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmariner.models.gguf import REVISION
from llmariner.models.gguf.architectures import TensorPlan, configuration_files, plan_tensors
from llmariner.models.gguf.blocks import BLOCKS, Floats, bfloat16, float32
from llmariner.models.gguf.header import GgufTensor, read_header
from llmariner.models.gguf.tokenizer import chat_template, tokenizer_files
from llmariner.platform.model_files import (
    ByteStream,
    FilesUnavailable,
    Listing,
    ModelSource,
    RemoteFile,
    TransferInterrupted,
)
from llmariner.platform.model_files.part_stream import PartStream

__all__ = ["GgufConversion", "conversion_of_file", "conversion_of_source", "write_folder"]

_WEIGHTS = "model.safetensors"
_BYTES_PER_NUMBER = 2
_PIECE_BYTES = 1 << 20
_HEADER_SECONDS = 20.0

Read = Callable[[int, int], bytes]
"""The bytes of the GGUF file from a start up to an end; fewer at its end only."""


@dataclass(frozen=True)
class _Place:
    """A tensor in the .safetensors file, from `start` up to `end`."""

    plan: TensorPlan
    start: int
    end: int


class GgufConversion:
    """See `ModelSource`. `identity`: the key of the GGUF file (`RemoteFile.key`).

    Raises FilesUnavailable for a file that can't be converted.
    """

    only = ""

    def __init__(self, identity: str, size: int, read: Read) -> None:
        self._identity, self._size, self._read = identity, size, read
        header = read_header(size, read)
        self._data_start = header.data_start
        plans = plan_tensors(header)
        for plan in plans:
            self._check_place(plan.source)
        if self._data_start + sum(_stored_bytes(plan.source) for plan in plans) > size:
            # A small file would become a folder of any size.
            raise FilesUnavailable(
                "The GGUF file has tensors that share their bytes. Ask who published it for another one."
            )
        self._small = configuration_files(header, self._tensor_bytes) | tokenizer_files(header)
        if template := chat_template(header):
            self._small["chat_template.jinja"] = template.encode("utf-8", errors="replace")
        self._beginning, self._places = _layout(plans)

    def list_files(self) -> Listing:
        """See the port."""
        sizes = {name: len(content) for name, content in self._small.items()}
        sizes[_WEIGHTS] = self._places[-1].end
        version = f"gguf-{REVISION}-{self._identity}"
        return Listing(tuple(RemoteFile(name, size, name, version=version) for name, size in sizes.items()), version)

    def open_range(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[ByteStream]:
        """See the port."""
        return contextlib.closing(PartStream(self._parts(file.path, start, end)))

    def _parts(self, path: str, start: int, end: int) -> Generator[bytes, None, None]:
        if path != _WEIGHTS:
            yield self._small[path][start:end]
            return
        yield self._beginning[start:end]
        for place in self._places:
            first, last = max(start, place.start), min(end, place.end)
            if first < last:
                yield from self._weights(place.plan, first - place.start, last - place.start)

    def _weights(self, plan: TensorPlan, start: int, end: int) -> Iterator[bytes]:
        """Bytes of a tensor as the folder has it: whole rows, or heads, are computed, and cut."""
        shape = plan.source.shape
        rows, columns = (shape[0], shape[1]) if len(shape) == 2 else (1, shape[0])
        group = rows // plan.heads if plan.heads else 1
        group_bytes = group * columns * _BYTES_PER_NUMBER
        at_once = max(1, _PIECE_BYTES // group_bytes)
        for first in range(start // group_bytes, -(-end // group_bytes), at_once):
            last = min(first + at_once, -(-end // group_bytes))
            numbers = self._rows(plan.source, first * group, last * group, columns)
            data = bfloat16(_unrotated(numbers, last - first) if plan.heads else numbers)
            begin = first * group_bytes
            yield data[max(0, start - begin) : end - begin]

    def _rows(self, tensor: GgufTensor, first: int, last: int, columns: int) -> Floats:
        block = BLOCKS[tensor.kind]
        row_bytes = columns // block.elements * block.size
        at = self._data_start + tensor.offset
        data = self._exactly(at + first * row_bytes, at + last * row_bytes)
        with np.errstate(all="ignore"):  # damaged scales give no numbers, which is for the engine to say
            return float32(tensor.kind, data).reshape(last - first, columns)

    def _tensor_bytes(self, tensor: GgufTensor) -> bytes:
        self._check_place(tensor)
        at = self._data_start + tensor.offset
        return self._exactly(at, at + _stored_bytes(tensor))

    def _check_place(self, tensor: GgufTensor) -> None:
        if self._data_start + tensor.offset + _stored_bytes(tensor) > self._size:
            raise FilesUnavailable(
                f"The GGUF file ends before its tensor '{tensor.name[:80]}' does. Fetch the model again, or ask who "
                "published it."
            )

    def _exactly(self, start: int, end: int) -> bytes:
        data = self._read(start, end)
        if len(data) != end - start:
            raise TransferInterrupted("The GGUF file ended early.")
        return data


def conversion_of_source(source: ModelSource, files: Sequence[RemoteFile]) -> GgufConversion:
    """The conversion of the one GGUF file among a model's, from its header: before the whole is fetched.

    FilesUnavailable; TransferInterrupted, also where the header takes longer than some seconds.
    """
    names = [file.path for file in files if file.path.endswith(".gguf")]
    if len(names) > 1:
        raise FilesUnavailable(
            f"The model has several GGUF files ({', '.join(names)[:300]}), and one is converted. Use a Hugging Face "
            "repository of the same model."
        )
    (file,) = (file for file in files if file.path == names[0])

    deadline = time.monotonic() + _HEADER_SECONDS

    def read(start: int, end: int) -> bytes:
        data = bytearray()
        with source.open_range(file, start, end) as stream:
            while len(data) < end - start and (block := stream.read(min(_PIECE_BYTES, end - start - len(data)))):
                data += block
                if time.monotonic() > deadline:
                    raise TransferInterrupted("The source is slow.")
        return bytes(data)

    return GgufConversion(file.key, file.size, read)


def conversion_of_file(path: Path) -> GgufConversion:
    """The conversion of a file of this machine. FilesUnavailable, OSError."""

    def read(start: int, end: int) -> bytes:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    return GgufConversion(path.name, path.stat().st_size, read)


def write_folder(conversion: GgufConversion, folder: Path, on_progress: Callable[[int], None]) -> None:
    """Write all files into a new folder, for everybody to read; what `on_progress` (bytes so far) raises ends it."""
    folder.mkdir()
    done = 0
    for each in conversion.list_files().files:
        with (folder / each.path).open("xb") as file, conversion.open_range(each, 0, each.size) as stream:
            while block := stream.read(_PIECE_BYTES):
                file.write(block)
                done += len(block)
                on_progress(done)
        (folder / each.path).chmod(0o644)  # an engine may be another user


def _stored_bytes(tensor: GgufTensor) -> int:
    block = BLOCKS[tensor.kind]
    return tensor.elements // block.elements * block.size


def _layout(plans: list[TensorPlan]) -> tuple[bytes, list[_Place]]:
    """The beginning of the .safetensors file, and where each tensor is in it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ends = [0]
    for plan in plans:
        ends.append(ends[-1] + plan.source.elements * _BYTES_PER_NUMBER)
        entries[plan.name] = {"dtype": "BF16", "shape": list(plan.source.shape), "data_offsets": ends[-2:]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    beginning = len(header).to_bytes(8, "little") + header
    begins = len(beginning)
    places = [_Place(plan, begins + ends[at], begins + ends[at + 1]) for at, plan in enumerate(plans)]
    return beginning, places


def _unrotated(numbers: Floats, heads: int) -> Floats:
    """Rows of heads in the order of Hugging Face: a GGUF file has those of each half of a head by turns."""
    columns = numbers.shape[-1]
    return np.ascontiguousarray(numbers.reshape(heads, -1, 2, columns).swapaxes(1, 2)).reshape(-1, columns)
