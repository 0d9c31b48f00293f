"""What a model's own files say about how to serve it: architecture, context, chat template, parsers of vLLM.

Texts of the files choose among names in this module; none of them reaches a command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmariner.models.formats import read_json
from llmariner.models.model import Task
from llmariner.models.traits import ModelTraits
from llmariner.platform.serving import DEFAULT_TOOL_PARSER

__all__ = ["SMALL_FILES", "folder_task", "folder_traits"]

SMALL_FILES = frozenset(
    {
        "adapter_config.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "modules.json",
        "tokenizer_config.json",
    }
)
"""The files of a model that are looked at, besides its weights."""

_CONFIG = "config.json"
_MAX_TEMPLATE_BYTES = 1 << 20

# The first entry whose text is in the chat template names the parser, as vLLM 0.32 calls it.
_TOOL_MARKS = (
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v3"),
    ("<minimax:tool_call>", "minimax_m2"),
    ("<start_function_call>", "functiongemma"),
    ("<|tool_call>", "gemma4"),
    ("<arg_key>", "glm45"),
    ("<seed:tool_call>", "seed_oss"),
    ("[TOOL_CALLS]", "mistral"),
    ("<function=", "qwen3_coder"),
    ("<|python_tag|>", "llama3_json"),
    ("<|action_start|>", "internlm"),
    ("<tool_calls>", "jamba"),
    ("functools[", "phi4_mini_json"),
)
_TOOL_ARCHITECTURES = {
    "GptOssForCausalLM": "openai",
    "GraniteForCausalLM": "granite",
    "GraniteMoeHybridForCausalLM": "granite4",
    "Llama4ForConditionalGeneration": "llama4_pythonic",
    "Olmo3ForCausalLM": "olmo3",
}
_REASONING_ARCHITECTURES = {
    "GptOssForCausalLM": "openai_gptoss",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3",
    "Qwen3NextForCausalLM": "qwen3",
    "DeepseekV3ForCausalLM": "deepseek_r1",
    "Glm4MoeForCausalLM": "glm45",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "SeedOssForCausalLM": "seed_oss",
    "Olmo3ForCausalLM": "olmo3",
}
_REASONING_MARKS = ("<think>", "</think>", "<seed:think>")
_ALWAYS_REASONING = frozenset({"GptOssForCausalLM"})
_EMBEDDING_WORDS = ("Bert", "Embedding", "SentenceTransformer")


def folder_traits(folder: Path, config: Mapping[str, Any]) -> ModelTraits:
    """The traits of a Hugging Face folder; `config`: of its config.json. FilesUnavailable for other files without JSON."""
    architecture = _first_text(config.get("architectures"))
    file, template = _chat_template(folder)
    tool_parser, tool_parser_origin = _tool_parser(architecture, file, template)
    reasoning_parser, reasoning_parser_origin = _reasoning_parser(architecture, file, template)
    return ModelTraits(
        architecture=architecture,
        context_length=_context_length(config),
        quantization=_quantization(config),
        chat_template=file,
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        tool_parser_origin=tool_parser_origin,
        reasoning_parser_origin=reasoning_parser_origin,
    )


def folder_task(folder: Path, traits: ModelTraits) -> Task:
    """The task that the model of a Hugging Face folder is for."""
    embeds = any(word in traits.architecture for word in _EMBEDDING_WORDS) or (folder / "modules.json").is_file()
    return Task.EMBED if embeds else Task.GENERATE


def _chat_template(folder: Path) -> tuple[str, str]:
    """The file with the chat template, and the template."""
    path = folder / "chat_template.jinja"
    if path.is_file() and path.stat().st_size <= _MAX_TEMPLATE_BYTES:
        return path.name, path.read_text("utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = read_json(folder / name).get("chat_template")
        if isinstance(template, list):  # several named ones; tool calls may have their own
            template = "\n".join(str(_mapping(each).get("template", "")) for each in template)
        if template and isinstance(template, str):
            return name, template[:_MAX_TEMPLATE_BYTES]
    return "", ""


def _tool_parser(architecture: str, file: str, template: str) -> tuple[str, str]:
    """The parser, and the file from which it was chosen; `file` has the template."""
    if not template:
        return "", ""
    if architecture in _TOOL_ARCHITECTURES:
        return _TOOL_ARCHITECTURES[architecture], _CONFIG
    marked = next((parser for mark, parser in _TOOL_MARKS if mark in template), "")
    return (marked, file) if marked else (DEFAULT_TOOL_PARSER, "default")


def _reasoning_parser(architecture: str, file: str, template: str) -> tuple[str, str]:
    """The parser, and the file from which it was chosen; `file` has the template."""
    if architecture in _ALWAYS_REASONING or any(mark in template for mark in _REASONING_MARKS):
        if architecture in _REASONING_ARCHITECTURES:
            return _REASONING_ARCHITECTURES[architecture], _CONFIG
        # A model whose weights were tuned on DeepSeek R1's answers has its template and another architecture.
        if "</think>" in template and "<｜Assistant｜>" in template:
            return "deepseek_r1", file
    return "", ""


def _context_length(config: Mapping[str, Any]) -> int:
    for holder in (config, _mapping(config.get("text_config"))):
        found = holder.get("max_position_embeddings")
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found < 1 << 40:
            return found
    return 0


def _quantization(config: Mapping[str, Any]) -> str:
    """The method by which the weights are quantized; empty where they are not. Some models have it in an older place."""
    for name in ("quantization_config", "compression_config"):
        if said := _mapping(config.get(name)):
            bits = any(said.get(key) is True for key in ("load_in_4bit", "load_in_8bit"))
            return _text(said.get("quant_method")) or ("bitsandbytes" if bits else "unknown")
    return ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value[:80] if isinstance(value, str) and value[:80].isprintable() else ""


def _first_text(value: Any) -> str:
    return _text(value[0]) if isinstance(value, list) and value else ""
