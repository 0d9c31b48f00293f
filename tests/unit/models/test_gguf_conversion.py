"""What a conversion of a GGUF file writes, in any ranges, and what it refuses from the header."""

from __future__ import annotations

import importlib
import json
import random
import struct

import numpy as np
import pytest

from llmariner.models.gguf import tokenizer
from llmariner.models.gguf.blocks import BLOCKS, bfloat16, float32
from llmariner.models.gguf.conversion import GgufConversion
from llmariner.models.gguf.header import read_header
from llmariner.platform.model_files import ByteStream, FilesUnavailable

_tiny = importlib.import_module("...standalone.tiny_model_files", __package__)

GGUF: bytes = _tiny.gguf_model()
SHAPES = dict(_tiny.GGUF_SHAPES)
LAST = struct.pack("<I2QI", 2, 128, 64, 0)  # of the tensor that is written last: dimensions, shape and type
OFFSET = GGUF.index(LAST, GGUF.index(b"ffn_down")) + len(LAST)
FIRST_KEY = b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1) + b"a"
NO_TENSORS = FIRST_KEY[:8] + bytes(8) + FIRST_KEY[16:]


def conversion(content: bytes = GGUF) -> GgufConversion:
    return GgufConversion("x", len(content), lambda start, end: content[start:end])


def rest_of(stream: ByteStream) -> bytes:
    return b"".join(iter(lambda: stream.read(999), b""))


def files(made: GgufConversion) -> dict[str, bytes]:
    found = {}
    for file in made.list_files().files:
        with made.open_range(file, 0, file.size) as stream:
            found[file.path] = rest_of(stream)
        assert len(found[file.path]) == file.size
    return found


def tensor(weights: bytes, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    length = int.from_bytes(weights[:8], "little")
    entry = json.loads(weights[8 : 8 + length])[name]
    begin, end = (8 + length + at for at in entry["data_offsets"])
    bits = np.frombuffer(weights[begin:end], "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(entry["shape"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_tiny.gguf_model({"general.architecture": "mamba"}), "architecture 'mamba' can't be converted.*llama, qwen2"),
        (_tiny.gguf_model({"llama.expert_count": 8}), "a mixture of experts"),
        (_tiny.gguf_model({"tokenizer.ggml.pre": "dbrx"}), "pre-tokenizer 'dbrx'"),
        (_tiny.gguf_model({"tokenizer.ggml.model": "rwkv"}), "tokenizer 'rwkv'"),
        (_tiny.gguf_model({"tokenizer.ggml.model": "llama"}), "no scores"),
        (_tiny.gguf_model({"tokenizer.ggml.tokens": None}), "no tokenizer"),
        (_tiny.gguf_model({"tokenizer.ggml.tokens": ["a", "a"]}), "a token twice"),
        (_tiny.gguf_model(kind=16), "type 16 of ggml.*Q4_K"),
        (_tiny.gguf_model(shapes=SHAPES | {"blk.0.ffn_up.weight": (64, 128)}), r"has the shape \[64, 128\]"),
        (_tiny.gguf_model(shapes=SHAPES | {"mm.weight": (2, 2)}), "such as 'mm.weight'"),
        (_tiny.gguf_model(shapes={"token_embd.weight": SHAPES["token_embd.weight"]}), "'output_norm.weight'.*missing"),
        (_tiny.gguf_model({"llama.attention.key_length": 16, "llama.rope.dimension_count": 8}), "a part is rotated"),
        (_tiny.gguf_model({"llama.rope.scaling.type": "su", "llama.rope.scaling.factor": 2.0}), "scales positions"),
        (_tiny.gguf_model(shapes=SHAPES | {"rope_freqs.weight": (8,)}), "scales positions"),
        (_tiny.gguf_model({"llama.embedding_length": 1 << 20}), "of a size that is not converted"),
        (_tiny.gguf_model({"llama.context_length": None}), "nothing usable about 'context_length'"),
        (_tiny.gguf_model({"llama.attention.head_count": [4]}), "nothing usable about 'attention.head_count'"),
        (_tiny.gguf_model({"llama.attention.head_count": 0.5}), "contradict each other"),
        (
            _tiny.gguf_model({"llama.embedding_length": 1 << 16, "llama.rope.dimension_count": 512}),
            "of a size that is not converted",
        ),
        (GGUF[:-1000], "ends before its tensor"),
        (GGUF[:OFFSET] + bytes(8) + GGUF[OFFSET + 8 : -4 * 64 * 128], "share their bytes"),
        (GGUF[:4] + b"\x01" + GGUF[5:], "version 1"),
        (GGUF[:8] + b"\xff" * 8 + GGUF[16:], "header is damaged"),
        (GGUF[:16] + b"\xff" * 8 + GGUF[24:], "header is damaged"),
        (GGUF[:24] + b"\xff" * 8 + GGUF[32:], "header is damaged"),
        (GGUF[:600], "header is damaged"),
        (b"\x80\x04" * 20, "its content is none"),
        (b"GGUF", "its content is none"),
        (b"GGUF" + struct.pack("<I", 3) + b"\xff" * 100, "header is damaged"),
        (FIRST_KEY + struct.pack("<IIQ", 9, 99, 1 << 62), "header is damaged"),
        (FIRST_KEY + struct.pack("<IIQ", 9, 0, 1 << 62), "header is damaged"),
        (NO_TENSORS + struct.pack("<IIQ", 9, 0, 5 << 20) + bytes(5 << 20), "header is damaged"),
        (FIRST_KEY + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000, "header is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_can_not_be_converted_is_refused_with_the_reason(content: bytes, said: str) -> None:
    with pytest.raises(FilesUnavailable, match=said):
        conversion(content)


def test_pairs_of_tokens_that_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * len(_tiny.GGUF_TOKENS)}
    content = _tiny.gguf_model(scores)
    assert json.loads(files(conversion(content))["tokenizer.json"])["model"]["merges"] == [["a", "b"]]
    monkeypatch.setattr(tokenizer, "_MAX_PAIRS", 0)
    with pytest.raises(FilesUnavailable, match="more pairs of tokens"):
        conversion(content)


def test_tokens_whose_pairs_take_long_to_find_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(_tiny.GGUF_TOKENS)
    scores = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [0.0] * count}
    monkeypatch.setattr(tokenizer, "_MAX_SPLITS", 200)
    tokens = ["x" * length for length in range(1, count + 1)]
    assert conversion(_tiny.gguf_model(scores)), "short ones"
    with pytest.raises(FilesUnavailable, match="more or longer tokens"):
        conversion(_tiny.gguf_model(scores | {"tokenizer.ggml.tokens": tokens}))


def test_headers_of_noise_are_refused_and_nothing_else() -> None:
    random_ = random.Random(5)
    length = read_header(len(GGUF), lambda start, end: GGUF[start:end]).data_start
    for _ in range(300):
        content = bytearray(GGUF)
        for _ in range(random_.randint(1, 4)):
            content[random_.randrange(4, length)] = random_.randrange(256)
        try:
            made = conversion(bytes(content))
        except FilesUnavailable:
            continue
        made.list_files()


def test_any_range_is_that_of_the_whole() -> None:
    made = conversion()
    whole = files(made)["model.safetensors"]
    (file,) = (each for each in made.list_files().files if each.path == "model.safetensors")
    random_ = random.Random(7)
    ranges = [sorted(random_.sample(range(len(whole) + 1), 2)) for _ in range(60)]
    for start, end in [*ranges, (0, 1), (len(whole) - 1, len(whole)), (8, 9)]:
        with made.open_range(file, start, end) as stream:
            assert rest_of(stream) == whole[start:end]


def test_rows_of_queries_and_keys_are_in_the_order_of_hugging_face() -> None:
    """Rows 0, 2, 4, ... of a head in a GGUF file are its first half."""
    header = read_header(len(GGUF), lambda start, end: GGUF[start:end])
    weights = files(conversion())["model.safetensors"]
    for name, target, rotated in (
        ("attn_q", "self_attn.q_proj", True),
        ("attn_k", "self_attn.k_proj", True),
        ("attn_v", "self_attn.v_proj", False),
    ):
        ours = tensor(weights, f"model.layers.0.{target}.weight")
        at = header.data_start + header.tensors[f"blk.0.{name}.weight"].offset
        theirs = np.frombuffer(GGUF[at : at + 4 * ours.size], "<f4").reshape(ours.shape)
        for head in range(0, len(ours), 16):
            of_head = theirs[head : head + 16]
            expected = np.concatenate([of_head[0::2], of_head[1::2]]) if rotated else of_head
            np.testing.assert_allclose(ours[head : head + 16], expected, rtol=1 / 256)


@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear"])
def test_positions_are_scaled_by_a_factor_without_a_type(key: str) -> None:
    config = json.loads(files(conversion(_tiny.gguf_model({f"llama.{key}": 4.0})))["config.json"])
    assert config["rope_parameters"] == {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    for metadata in ({f"llama.{key}": 1.0}, {f"llama.{key}": 4.0, "llama.rope.scaling.type": "none"}):
        assert "rope_scaling" not in json.loads(files(conversion(_tiny.gguf_model(metadata)))["config.json"])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("factor", [8.0, np.inf])
def test_scaled_positions_of_llama_3_are_recognized_by_their_factors(factor: float) -> None:
    base, head = 500_000.0, 128
    wavelengths = 2 * np.pi * base ** (np.arange(0, head, 2) / head)
    smooth = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    factors = (1 / ((1 - smooth) / factor + smooth)).astype("<f4")
    shapes = {"attn_q": (128, 64), "attn_k": (128, 64), "attn_v": (128, 64), "attn_output": (64, 128)}
    sizes = {
        "attention.head_count": 1,
        "attention.head_count_kv": 1,
        "rope.dimension_count": head,
        "rope.freq_base": base,
    }
    content = _tiny.gguf_model(
        {f"llama.{key}": value for key, value in sizes.items()},
        SHAPES | {f"blk.0.{name}.weight": shape for name, shape in shapes.items()} | {"rope_freqs.weight": (64,)},
    )
    content = content[: -4 * 64] + factors.tobytes()
    if factor == np.inf:
        with pytest.raises(FilesUnavailable, match="by no number"):
            conversion(content)
        return
    config = json.loads(files(conversion(content))["config.json"])
    assert config["rope_parameters"] == {
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_the_end_of_a_turn_ends_an_answer() -> None:
    content = _tiny.gguf_model({"tokenizer.ggml.eot_token_id": 97})
    made = files(conversion(content))
    assert json.loads(made["generation_config.json"])["eos_token_id"] == [2, 97]
    assert json.loads(made["tokenizer_config.json"])["eos_token"] == "ab"


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: BLOCKS[kind].name)
def test_blocks_of_zeros_are_zeros(kind: int) -> None:
    block = BLOCKS[kind]
    numbers = float32(kind, bytes(3 * block.size))
    assert numbers.shape == (3 * block.elements,)
    assert not numbers.any()


def test_numbers_are_rounded_to_the_nearest_even() -> None:
    cases = {1.0: 0x3F80, 1.00390625: 0x3F80, 1.01171875: 0x3F82, -2.0: 0xC000, float("inf"): 0x7F80, 3.4e38: 0x7F80}
    found = np.frombuffer(bfloat16(np.array(list(cases), np.float32)), "<u2")
    assert found.tolist() == list(cases.values())
    assert np.frombuffer(bfloat16(np.array([np.nan], np.float32)), "<u2").tolist() == [0x7FC0]
