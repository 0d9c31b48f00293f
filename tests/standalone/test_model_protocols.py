"""The engine's own environment as the judge: the Hub's client, the conversion of GGUF files, vLLM's parsers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from llmariner.models import inspection
from llmariner.models.gguf.conversion import conversion_of_file, write_folder
from llmariner.platform.serving import DEFAULT_TOOL_PARSER
from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.platform import checkout_root

from .model_server import COMMIT, running_server
from .tiny_model_files import CONFIG, safetensors

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

CLIENT = """
import sys
from huggingface_hub import HfApi, snapshot_download
info = HfApi().model_info("org/model", files_metadata=True)
print(info.sha, [(each.size, each.lfs and each.lfs.sha256) for each in info.siblings])
snapshot_download("org/model", local_dir=sys.argv[1])
for name, revision in (("org/gone", None), ("org/gated", None), ("org/model", "v9")):
    try:
        HfApi().model_info(name, revision=revision)
    except Exception as error:
        print(type(error).__name__)
"""

REFERENCE = """
import sys
from pathlib import Path
import numpy
from gguf import GGMLQuantizationType, GGUFWriter, quants

folder = Path(sys.argv[1])
hidden, middle, heads, keys, head = 256, 512, 2, 1, 128
tokens = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 127)), chr(0x120), "ab", chr(0x120) + "a"]
random = numpy.random.default_rng(3)
TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def stored(shape, type_):
    if len(shape) == 1 or type_ in ("F32", "F16"):
        return random.normal(0, 0.1, shape).astype(numpy.float16 if type_ == "F16" and len(shape) > 1 else numpy.float32)
    kind = GGMLQuantizationType[type_]
    if not type_.endswith("_K"):
        return quants.quantize(random.normal(0, 0.1, shape).astype(numpy.float32), kind)
    block, size = quants.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (shape[0], shape[1] // block, size), dtype=numpy.uint8)
    small = numpy.frombuffer(numpy.float16(0.001).tobytes(), numpy.uint8)  # in place of scales that may be no numbers
    at = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[type_]
    for place in at:
        data[..., place : place + 2] = small
    return data.reshape(shape[0], -1)


def write(name, path):
    writer = GGUFWriter(str(path), name)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(2)
    writer.add_feed_forward_length(middle)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if name.startswith("qwen") else "smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b", chr(0x120) + " a"])
    writer.add_token_types([1, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {"token_embd.weight": (len(tokens), hidden), "output_norm.weight": (hidden,)}
    if name == "qwen2":
        shapes["output.weight"] = (len(tokens), hidden)
    for number in range(2):
        layer = {"attn_q.weight": (heads * head, hidden), "attn_output.weight": (hidden, heads * head)}
        layer |= {f"attn_{each}.weight": (keys * head, hidden) for each in "kv"}
        layer |= {f"ffn_{each}.weight": (middle, hidden) for each in ("gate", "up")}
        layer |= {"ffn_down.weight": (hidden, middle), "attn_norm.weight": (hidden,), "ffn_norm.weight": (hidden,)}
        if name == "qwen2":
            layer |= {"attn_q.bias": (heads * head,), "attn_k.bias": (keys * head,), "attn_v.bias": (keys * head,)}
        if name == "qwen3":
            layer |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
        shapes |= {f"blk.{number}.{each}": shape for each, shape in layer.items()}
    for number, (each, shape) in enumerate(shapes.items()):
        type_ = TYPES[number % len(TYPES)] if len(shape) == 2 else "F32"
        writer.add_tensor(each, stored(shape, type_), raw_dtype=GGMLQuantizationType[type_])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if sys.argv[2] == "write":
    for name in ("llama", "qwen2", "qwen3"):
        write(name, folder / f"{name}.gguf")
    raise SystemExit
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

for name in ("llama", "qwen2", "qwen3"):
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{name}.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(folder / name)
    assert type(ours) is type(theirs), (type(ours), type(theirs))
    given, made = theirs.state_dict(), ours.state_dict()
    assert given.keys() == made.keys()
    for key, value in given.items():
        assert torch.equal(value.to(torch.bfloat16), made[key]), key
    prompt = torch.tensor([[1, 40, 50, 60, 70]])
    theirs.load_state_dict({key: value.to(torch.bfloat16).float() for key, value in given.items()})
    with torch.no_grad():
        torch.testing.assert_close(ours.float()(prompt).logits, theirs(prompt).logits, msg=name)
    before = AutoTokenizer.from_pretrained(folder, gguf_file=f"{name}.gguf")
    after = AutoTokenizer.from_pretrained(folder / name)
    for text in ("ab ab  cab", "a b<s>ab</s>", "12 ab"):
        numbers = before(text)["input_ids"]
        assert after(text)["input_ids"] == numbers, (name, text)
        assert after.decode(numbers) == before.decode(numbers)
print("same")
"""


@pytest.fixture(scope="module")
def engine() -> EngineEnvironment:
    made = EngineEnvironment(StandaloneSettings.load(environment()).cache, checkout_root() / "locks" / "engine.lock")
    if not made.is_installed:
        pytest.skip("`llma up` has not made the engine environment yet")
    return made


def run(engine: EngineEnvironment, program: str, *arguments: Path | str, **variables: str) -> str:
    command = [str(engine.python), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_hubs_own_client_takes_the_test_server_for_a_hub(engine: EngineEnvironment, tmp_path: Path) -> None:
    files = {"config.json": CONFIG, "model.safetensors": safetensors(1 << 20), "1_Pooling/config.json": b"{}"}
    with running_server() as server:
        server.repositories = {"org/model": files, "org/gated": files}
        server.gated.add("org/gated")
        server.redirect_to = server.url.replace("127.0.0.1", "localhost")  # a content network is another host
        said = run(
            engine,
            CLIENT,
            tmp_path / "m",
            HF_ENDPOINT=server.url,
            HF_HOME=str(tmp_path / "home"),
            HF_HUB_DISABLE_XET="1",
        )
    assert said.splitlines()[0].startswith(COMMIT)
    assert said.splitlines()[1:] == ["RepositoryNotFoundError", "GatedRepoError", "RevisionNotFoundError"]
    assert {name: (tmp_path / "m" / name).read_bytes() for name in files} == files


def test_converted_gguf_files_are_the_models_that_transformers_reads_from_them(
    engine: EngineEnvironment, tmp_path: Path
) -> None:
    """Each way of quantization, and each architecture: weights, answers and tokens."""
    run(engine, REFERENCE, tmp_path, "write", OMP_NUM_THREADS="1")
    for name in ("llama", "qwen2", "qwen3"):
        write_folder(conversion_of_file(tmp_path / f"{name}.gguf"), tmp_path / name, lambda _done: None)
    assert run(engine, REFERENCE, tmp_path, "compare", OMP_NUM_THREADS="1").splitlines()[-1] == "same"


def test_the_engine_has_every_parser_that_is_chosen(engine: EngineEnvironment) -> None:
    (packages,) = engine.folder.glob("venv/lib/python*/site-packages")
    tools = {parser for _, parser in inspection._TOOL_MARKS} | set(inspection._TOOL_ARCHITECTURES.values())
    for folder, names in (
        ("tool_parsers", tools | {DEFAULT_TOOL_PARSER}),
        ("reasoning", set(inspection._REASONING_ARCHITECTURES.values())),
    ):
        registered = set(
            re.findall(r'^    "(\w+)"', (packages / "vllm" / folder / "__init__.py").read_text(), re.MULTILINE)
        )
        assert names <= registered
