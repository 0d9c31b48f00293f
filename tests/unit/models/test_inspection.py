"""What a model's files say: parsers of tool calls and of reasoning, template, context, task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmariner.models.formats import folder_format
from llmariner.models.inspection import folder_task, folder_traits
from llmariner.models.model import Task
from llmariner.models.traits import ModelTraits, configured_argument
from llmariner.platform.model_files import FilesUnavailable

QWEN3 = "{% if tools %}<tools></tools><tool_call>{% endif %}<think>\n\n</think>"
R1 = "<｜User｜>{{ x }}<｜Assistant｜>{% if '</think>' in x %}{% endif %}<｜tool▁calls▁begin｜>"


@pytest.mark.parametrize(
    ("architecture", "template", "tools", "reasoning"),
    [
        ("Qwen2ForCausalLM", "<tool_call>", "hermes", ""),
        ("Qwen3ForCausalLM", QWEN3, "hermes", "qwen3"),
        ("Qwen3ForCausalLM", "<tool_call>", "hermes", ""),
        ("Qwen3MoeForCausalLM", "<tool_call>\n<function=name>", "qwen3_coder", ""),
        ("LlamaForCausalLM", "<|python_tag|>", "llama3_json", ""),
        ("LlamaForCausalLM", R1, "deepseek_v3", "deepseek_r1"),
        ("DeepseekV3ForCausalLM", R1, "deepseek_v3", "deepseek_r1"),
        ("MistralForCausalLM", "[AVAILABLE_TOOLS][TOOL_CALLS]", "mistral", ""),
        ("GptOssForCausalLM", "<|channel|>analysis", "openai", "openai_gptoss"),
        ("GraniteForCausalLM", "<|tool_call|>", "granite", ""),
        ("Glm4MoeForCausalLM", "<think></think><tool_call><arg_key>", "glm45", "glm45"),
        ("UnknownForCausalLM", "{{ messages }}", "hermes", ""),
        ("LlamaForCausalLM", "", "", ""),
    ],
)
def test_parsers_follow_the_models_own_files(
    architecture: str, template: str, tools: str, reasoning: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template or None}))
    found = folder_traits(tmp_path, {"architectures": [architecture]})
    assert (found.tool_parser, found.reasoning_parser) == (tools, reasoning)
    assert found.chat_template == ("tokenizer_config.json" if template else "")


@pytest.mark.parametrize(
    ("architecture", "template", "origins"),
    [
        ("Qwen3ForCausalLM", QWEN3, ("default", "config.json")),
        ("LlamaForCausalLM", R1, ("tokenizer_config.json", "tokenizer_config.json")),
        ("GptOssForCausalLM", "<|channel|>analysis", ("config.json", "config.json")),
        ("LlamaForCausalLM", "", ("", "")),
    ],
)
def test_parsers_name_the_file_that_they_were_chosen_from(
    architecture: str, template: str, origins: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template or None}))
    found = folder_traits(tmp_path, {"architectures": [architecture]})
    assert (found.tool_parser_origin, found.reasoning_parser_origin) == origins


def test_a_template_may_be_a_file_or_a_list(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "x"}, {"name": "tool_use", "template": "[TOOL_CALLS]"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert folder_traits(tmp_path, {}).tool_parser == "mistral"
    (tmp_path / "chat_template.jinja").write_text("<tool_call>")
    found = folder_traits(tmp_path, {})
    assert (found.chat_template, found.tool_parser) == ("chat_template.jinja", "hermes")


def test_a_template_is_utf8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(R1.encode())
    program = (
        "import sys, pathlib; from llmariner.models.inspection import folder_traits; "
        "print(folder_traits(pathlib.Path(sys.argv[1]), {}).tool_parser)"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-X", "utf8=0", "-c", program, str(tmp_path)]
    assert subprocess.run(command, env=env, capture_output=True, check=True).stdout == b"deepseek_v3\n"


HOSTILE: list[dict[str, Any]] = [
    {"architectures": None, "max_position_embeddings": True, "quantization_config": []},
    {"architectures": [5], "max_position_embeddings": -1, "quantization_config": {"quant_method": {}}},
    {"architectures": "Llama", "max_position_embeddings": 10**30, "quantization_config": {"quant_method": "a\nb"}},
    {"architectures": {}, "max_position_embeddings": "x", "text_config": []},
]


@pytest.mark.parametrize("config", HOSTILE)
def test_hostile_configurations_say_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": [1, {"template": 5}, null]}')
    found = folder_traits(tmp_path, config)
    unreadable = "unknown" if config.get("quantization_config") else ""
    assert (found.architecture, found.context_length, found.quantization) == ("", 0, unreadable)


def test_texts_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    for text in ("[]", "{", "[" * 100_000, "\0"):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(FilesUnavailable, match="no "):
            folder_traits(tmp_path, {})


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"bits": 4}}, "unknown"),
        ({"quantization_config": {}}, ""),
    ],
)
def test_quantized_weights_are_recognized(config: dict[str, Any], method: str, tmp_path: Path) -> None:
    assert folder_traits(tmp_path, config).quantization == method


def test_other_facts_are_read(tmp_path: Path) -> None:
    config = {"text_config": {"max_position_embeddings": 4096}, "quantization_config": {"quant_method": "awq"}}
    found = folder_traits(tmp_path, {**config, "architectures": ["BertModel"]})
    assert (found.context_length, found.quantization, folder_task(tmp_path, found)) == (4096, "awq", Task.EMBED)
    assert folder_task(tmp_path, ModelTraits("LlamaForCausalLM")) is Task.GENERATE
    assert ModelTraits.from_json(found.to_json()) == found
    assert ModelTraits.from_json("") == ModelTraits()
    assert ModelTraits.from_json('{"later": 1, "revision": "x"}').revision == "x"


def test_a_configured_argument_is_the_last_of_its_flag() -> None:
    flag = "--tool-call-parser"
    assert configured_argument([], flag) is None
    assert configured_argument([flag, "a", f"{flag}=b", "--seed", "1"], flag) == "b"
    assert configured_argument([f"{flag}=a", flag], flag) == ""


@pytest.mark.parametrize("header", ["[]", '"text"', '{"a": []}', '{"a": {"data_offsets": [0, 1e999]}}', "[" * 10_000])
def test_a_header_of_safetensors_that_is_no_object_is_refused(header: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 8)
    with pytest.raises(FilesUnavailable, match="content is none"):
        folder_format(tmp_path, pickles_allowed=False)
