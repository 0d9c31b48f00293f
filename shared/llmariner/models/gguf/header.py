"""The header of a GGUF file: its metadata and the places of its tensors.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Files are untrusted: sizes and counts are bounded by the content.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmariner.platform.model_files import FilesUnavailable

__all__ = ["GgufHeader", "GgufTensor", "parse_header", "read_header"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSORS = 20_000
_MAX_ENTRIES = 4_096
_MAX_DIMENSIONS = 4
# A vocabulary of 256,000 words, its scores and its merges take 20 MB, and 1.4 million elements of arrays. As objects of
# Python, elements take up to 60 bytes each.
MAX_HEADER_BYTES = 32 << 20
_MAX_ELEMENTS = 4 << 20
_FIRST_READ_BYTES = 4 << 20
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_DAMAGED = "The GGUF file's header is damaged. Fetch the model again, or ask who published it."


@dataclass(frozen=True)
class GgufTensor:
    """`shape`: outermost dimension first. `kind`: ggml's number of the type. `offset`: from the end of the header."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """`data_start`: the byte of the file that offsets of tensors count from."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data_start: int
    architecture: str = field(init=False)

    def __post_init__(self) -> None:
        found = self.metadata.get("general.architecture")
        object.__setattr__(self, "architecture", found if isinstance(found, str) else "")

    def number(self, key: str) -> float | None:
        """The number under a key of the architecture, such as `block_count`; None where there is none."""
        found = self.metadata.get(f"{self.architecture}.{key}")
        return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def read_header(size: int, read: Callable[[int, int], bytes]) -> GgufHeader:
    """The header of a file of `size` bytes. `read(start, end)` returns a range of it. FilesUnavailable."""
    wanted = min(size, _FIRST_READ_BYTES)
    while True:
        content = read(0, wanted)
        try:
            return parse_header(content)
        except EOFError as error:
            if wanted >= min(size, MAX_HEADER_BYTES):
                raise FilesUnavailable(_DAMAGED) from error
        wanted = min(size, wanted * 4, MAX_HEADER_BYTES)


def parse_header(content: bytes) -> GgufHeader:
    """The header at the beginning of `content`. FilesUnavailable; EOFError where it does not end in the content."""
    if content[:4] != _MAGIC or len(content) < 24:
        raise FilesUnavailable("The file is named .gguf, and its content is none.")
    version, tensors, entries = struct.unpack_from("<IQQ", content, 4)
    if version not in _VERSIONS:
        raise FilesUnavailable(f"The GGUF file has version {version}; versions 2 and 3 are read.")
    if tensors > _MAX_TENSORS or entries > _MAX_ENTRIES:
        raise FilesUnavailable(_DAMAGED)
    reader = _Reader(content)
    try:
        metadata = {reader.text(): reader.value() for _ in range(entries)}
        described = [reader.tensor() for _ in range(tensors)]
    except struct.error as error:
        raise EOFError from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise FilesUnavailable(_DAMAGED) from error
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise FilesUnavailable(_DAMAGED)
    by_name = {tensor.name: tensor for tensor in described}
    if len(by_name) != len(described):
        raise FilesUnavailable(_DAMAGED)
    return GgufHeader(metadata, by_name, -(-reader.position // alignment) * alignment)


class _Reader:
    """struct.error past the end of the content; ValueError for what no writer writes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._elements_left = _MAX_ELEMENTS
        self.position = 24  # after magic, version and two counts

    def text(self) -> str:
        length = self._number("<Q")
        begin = self.position
        if length > MAX_HEADER_BYTES:
            raise ValueError("length")
        if begin + length > len(self._content):
            raise struct.error
        self.position += length
        return self._content[begin : begin + length].decode("utf-8", errors="replace")

    def value(self) -> Any:
        return self._typed(self._number("<I"), depth=0)

    def tensor(self) -> GgufTensor:
        name, count = self.text(), self._number("<I")
        if not 1 <= count <= _MAX_DIMENSIONS:
            raise ValueError("dimensions")
        shape = tuple(self._number("<Q") for _ in range(count))
        if not 0 < math.prod(shape) < 1 << 44:
            raise ValueError("shape")
        return GgufTensor(name, shape[::-1], self._number("<I"), self._number("<Q"))

    def _typed(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY or depth > 1:
            raise ValueError("type")
        inner, count = self._number("<I"), self._number("<Q")
        if count > self._elements_left:
            raise ValueError("count")
        self._elements_left -= count
        if inner in _SCALARS:
            return self._scalars(_SCALARS[inner], count)
        return [self._typed(inner, depth + 1) for _ in range(count)]

    def _scalars(self, form: str, count: int) -> list[Any]:
        length = count * struct.calcsize(form)
        if self.position + length > len(self._content):
            raise struct.error
        found = struct.unpack_from(f"<{count}{form[1]}", self._content, self.position)
        self.position += length
        return list(found)

    def _number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._content, self.position)
        self.position += struct.calcsize(form)
        return value
