"""The engine's own environment as the judge: the Hub's client, the conversion of GGUF files, vLLM's parsers."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.models import inspection
from llmariner.models.model import SourceRepository
from llmariner.platform.serving import DEFAULT_TOOL_PARSER
from llmariner.settings import ModelSettings, StandaloneSettings, environment
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.platform import checkout_root
from llmariner.standalone.weights import LocalWeights

from .model_server import COMMIT, running_server
from .script_environment import no_file
from .test_weights import MODEL, ignore_progress
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

GGUF = """
import sys
import numpy
from gguf import GGUFWriter
hidden, middle = 64, 128
tokens = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(33, 127)), "ab"]
writer = GGUFWriter(sys.argv[1], "llama")
writer.add_context_length(128)
writer.add_embedding_length(hidden)
writer.add_block_count(1)
writer.add_feed_forward_length(middle)
writer.add_head_count(4)
writer.add_head_count_kv(4)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_dimension_count(16)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2")
writer.add_token_list(tokens)
writer.add_token_merges(["a b"])
writer.add_token_types([1] * len(tokens))
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_chat_template("{% for m in messages %}<tool_call>{{ m['content'] }}{% endfor %}")
shapes = {"token_embd": (len(tokens), hidden), "output": (len(tokens), hidden), "output_norm": (hidden,)}
shapes |= {f"blk.0.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
shapes |= {f"blk.0.ffn_{name}": (middle, hidden) for name in ("gate", "up")}
shapes |= {"blk.0.ffn_down": (hidden, middle), "blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", numpy.random.default_rng(3).normal(0, 0.1, shape).astype(numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


@pytest.fixture(scope="module")
def engine() -> EngineEnvironment:
    made = EngineEnvironment(StandaloneSettings.load(environment()).cache, checkout_root() / "locks" / "engine.lock")
    if not made.is_installed:
        pytest.skip("`llma up` has not made the engine environment yet")
    return made


def run(engine: EngineEnvironment, program: str, argument: Path, **variables: str) -> str:
    command = [str(engine.python), "-c", program, str(argument)]
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


def test_a_model_of_ollama_becomes_a_folder_with_its_chat_template(engine: EngineEnvironment, tmp_path: Path) -> None:
    run(engine, GGUF, tmp_path / "model.gguf")
    with running_server() as server:
        server.repositories["tiny:1"] = {"application/vnd.ollama.image.model": (tmp_path / "model.gguf").read_bytes()}
        settings = ModelSettings(ollama_registry=server.url)
        weights = LocalWeights(tmp_path / "models", engine, no_file, settings)
        model = replace(MODEL, source_repository=SourceRepository.OLLAMA, model_file_location="tiny:1")
        found = weights.fetch(model, ignore_progress)
    assert (found.traits.converted_from, found.traits.context_length) == ("GGUF", 128)
    assert (found.traits.chat_template, found.traits.tool_parser) == ("chat_template.jinja", "hermes")
    assert (Path(found.folder) / "tokenizer.json").is_file()


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
