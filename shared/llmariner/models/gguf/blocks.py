"""The weights of GGUF tensors: blocks of quantized numbers as arrays of float32, and these as bfloat16.

The layouts are those of ggml-common.h (https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h). All numbers are
little-endian; a block holds consecutive numbers of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCKS", "BlockFormat", "bfloat16", "float32"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_KINDS_16 = "<f2"
_SUPER = 256


@dataclass(frozen=True)
class BlockFormat:
    """A block of `elements` numbers takes `size` bytes. `decode`: blocks (n, size) → numbers (n, elements)."""

    name: str
    elements: int
    size: int
    decode: Callable[[Bytes], Floats]


def float32(kind: int, data: bytes) -> Floats:
    """The numbers of whole blocks of a kind in `BLOCKS`, in one dimension."""
    block = BLOCKS[kind]
    return block.decode(np.frombuffer(data, np.uint8).reshape(-1, block.size)).reshape(-1)


def bfloat16(numbers: Floats) -> bytes:
    """The numbers rounded to the nearest bfloat16, to even where two are as near; what is no number stays none."""
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16
    if not np.isfinite(numbers).all():
        rounded = np.where(np.isnan(numbers), 0x7FC0, np.where(np.isinf(numbers), bits >> 16, rounded))
    return rounded.astype("<u2").tobytes()


def _halves(blocks: Bytes, at: int) -> Floats:
    """The float16 at a byte of each block, as a column."""
    return blocks[:, at : at + 2].copy().view(_KINDS_16).astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Of each row: its low halves, then its high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    """The 32 bits at a byte of each block, each worth 16."""
    return np.left_shift(np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little"), 4, dtype=np.uint8)


def _f32(blocks: Bytes) -> Floats:
    return blocks.view("<f4").astype(np.float32, copy=False)


def _f16(blocks: Bytes) -> Floats:
    return blocks.view(_KINDS_16).astype(np.float32)


def _bf16(blocks: Bytes) -> Floats:
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _halves(blocks, 2)


def _q5_0(blocks: Bytes) -> Floats:
    numbers = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    return _halves(blocks, 0) * (numbers.astype(np.float32) - 16)


def _q5_1(blocks: Bytes) -> Floats:
    numbers = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _halves(blocks, 0) * numbers.astype(np.float32) + _halves(blocks, 2)


def _q8_0(blocks: Bytes) -> Floats:
    return _halves(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _pairs_of_bits(packed: Bytes) -> Bytes:
    """64 bytes → 256 numbers of two bits: of each 32 bytes the lowest pairs, then the next ones (n, 256)."""
    halves: Bytes = packed.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
    pairs: Bytes = halves & np.uint8(3)
    return pairs.reshape(-1, _SUPER)


def _scaled(numbers: Any, scales: Floats) -> Floats:
    """Numbers (n, 256) times the scale of their part of the block (n, parts)."""
    parts = scales.shape[1]
    scaled: Floats = numbers.reshape(-1, parts, _SUPER // parts).astype(np.float32) * scales[:, :, None]
    return scaled


def _q2_k(blocks: Bytes) -> Floats:
    packed = blocks[:, :16]
    scale, least = _halves(blocks, 80) * (packed & 15), _halves(blocks, 82) * (packed >> 4)
    return (_scaled(_pairs_of_bits(blocks[:, 16:80]), scale) - least[:, :, None]).reshape(-1, _SUPER)


def _q3_k(blocks: Bytes) -> Floats:
    packed = blocks[:, 96:108]
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = (packed[:, None, 8:12] >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 4, 1)) & 3
    scales = (low | (high.reshape(-1, 16) << 4)).astype(np.int8) - 32
    # Where the third bit is not set, 4 is taken away.
    third = (blocks[:, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    numbers = _pairs_of_bits(blocks[:, 32:96]).astype(np.int8) - ((1 - third.astype(np.int8)) << 2).reshape(-1, _SUPER)
    return _scaled(numbers, _halves(blocks, 108) * scales).reshape(-1, _SUPER)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """12 bytes → 8 scales and 8 offsets of six bits."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    offsets = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, offsets


def _nibble_rows(packed: Bytes) -> Bytes:
    """128 bytes → 256 numbers: of each 32 bytes the low halves, then the high ones."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, _SUPER)


def _q4_k(blocks: Bytes) -> Floats:
    scales, offsets = _six_bit_scales(blocks[:, 4:16])
    numbers = _scaled(_nibble_rows(blocks[:, 16:]), _halves(blocks, 0) * scales)
    return (numbers - (_halves(blocks, 2) * offsets)[:, :, None]).reshape(-1, _SUPER)


def _q5_k(blocks: Bytes) -> Floats:
    scales, offsets = _six_bit_scales(blocks[:, 4:16])
    fifth = (blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    numbers = _scaled(_nibble_rows(blocks[:, 48:]) | (fifth << 4).reshape(-1, _SUPER), _halves(blocks, 0) * scales)
    return (numbers - (_halves(blocks, 2) * offsets)[:, :, None]).reshape(-1, _SUPER)


def _q6_k(blocks: Bytes) -> Floats:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, _SUPER)
    numbers = (low | (_pairs_of_bits(blocks[:, 128:192]) << 4)).astype(np.int8) - 32
    scales = _halves(blocks, 208) * blocks[:, 192:208].copy().view(np.int8)
    return _scaled(numbers, scales).reshape(-1, _SUPER)


BLOCKS = {
    0: BlockFormat("F32", 1, 4, _f32),
    1: BlockFormat("F16", 1, 2, _f16),
    2: BlockFormat("Q4_0", 32, 18, _q4_0),
    3: BlockFormat("Q4_1", 32, 20, _q4_1),
    6: BlockFormat("Q5_0", 32, 22, _q5_0),
    7: BlockFormat("Q5_1", 32, 24, _q5_1),
    8: BlockFormat("Q8_0", 32, 34, _q8_0),
    10: BlockFormat("Q2_K", _SUPER, 84, _q2_k),
    11: BlockFormat("Q3_K", _SUPER, 110, _q3_k),
    12: BlockFormat("Q4_K", _SUPER, 144, _q4_k),
    13: BlockFormat("Q5_K", _SUPER, 176, _q5_k),
    14: BlockFormat("Q6_K", _SUPER, 210, _q6_k),
    30: BlockFormat("BF16", 1, 2, _bf16),
}
"""ggml's number of a type → its layout."""
