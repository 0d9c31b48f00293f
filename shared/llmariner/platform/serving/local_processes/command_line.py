"""The command line and environment of one engine: vLLM on this machine's CPU.

Every engine carries an explicit memory bound: vLLM otherwise reserves most of what it sees, and a second engine would
refuse to start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmariner.platform.serving import DEFAULT_TOOL_PARSER, EngineModel

__all__ = [
    "ANSWER_CHECK_MIDDLEWARE",
    "CAPACITY",
    "USAGE_MIDDLEWARE",
    "engine_arguments",
    "engine_environment",
    "feature_arguments",
    "memory_needed",
    "remote_code_arguments",
]

CAPACITY = 32
_PLUGINS = Path(__file__).parents[1] / "engine_plugins"
_MIB = 1024 * 1024
_KV_CACHE = {"generate": 512 * _MIB, "embed": 64 * _MIB}
# Interpreter, library state and activations of one forked engine, measured with models of 135 M parameters.
_PROCESS_OVERHEAD = {"generate": 900 * _MIB, "embed": 500 * _MIB}
_MAX_CONTEXT_TOKENS = 4096
_LORA_ARGUMENTS = ("--enable-lora", "--max-lora-rank", "16", "--max-loras", "2")
# With whitespace allowed a small model may generate spaces up to its token limit.
_STRUCTURED_OUTPUTS = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})


def feature_arguments(model: EngineModel) -> tuple[str, ...]:
    """Arguments of a generating engine, standalone and on clusters; the parsers are those that suit the model."""
    parser = model.tool_parser or DEFAULT_TOOL_PARSER
    return (
        *("--enable-auto-tool-choice", "--tool-call-parser", parser, "--exclude-tools-when-tool-choice-none"),
        *("--structured-outputs-config", _STRUCTURED_OUTPUTS),
        *(("--reasoning-parser", model.reasoning_parser) if model.reasoning_parser else ()),
    )


USAGE_MIDDLEWARE = "request_usage.RequestUsage"
"""The middleware that metering needs (docs/decisions/0004)."""

ANSWER_CHECK_MIDDLEWARE = "expected_answer.ExpectedAnswer"
"""The middleware that checks a CPU engine's first answer on a cluster (docs/decisions/0021)."""


def remote_code_arguments(model: EngineModel) -> tuple[str, ...]:
    """Arguments that disable code in model repositories unless an administrator enabled it."""
    asked = {argument.replace("_", "-") for argument in model.extra_args}
    return () if model.trusted and "--trust-remote-code" in asked else ("--no-trust-remote-code",)


def memory_needed(model: EngineModel) -> int:
    """The expected bytes of a model's engine: weights, KV cache, process."""
    return int(model.size_bytes * 1.1) + _KV_CACHE[model.task] + _PROCESS_OVERHEAD[model.task]


def engine_arguments(model: EngineModel, address: Path | int) -> list[str]:
    """Arguments after `vllm`. vLLM uses the last of each, so mandatory ones follow the model's.

    `address`: the Unix socket that the engine listens on, or a port on the loopback address.
    """
    listening = ("--port", str(address)) if isinstance(address, int) else ("--uds", str(address))
    arguments = [
        *("serve", model.folder, "--enforce-eager", "--distributed-executor-backend", "uni"),
        *("--kv-cache-memory-bytes", str(_KV_CACHE[model.task]), "--max-num-seqs", str(CAPACITY)),
        "--disable-uvicorn-access-log",
    ]
    if model.task == "embed":
        arguments += ["--runner", "pooling", "--dtype", "float32"]
    else:
        arguments += [
            "--dtype",
            "bfloat16",
            "--max-model-len",
            str(_context_length(model.folder)),
            *_lora_arguments(model.folder),
        ]
        arguments += feature_arguments(model)
    return [
        *arguments,
        *model.extra_args,
        *("--served-model-name", model.name, "--host", "127.0.0.1", *listening),
        *("--middleware", USAGE_MIDDLEWARE, *remote_code_arguments(model)),
    ]


def engine_environment(threads: int) -> dict[str, str]:
    """Environment variables of the launcher, which every engine inherits. `threads`: 0 for a default."""
    return {
        "PYTHONPATH": str(_PLUGINS),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Half of the cores: threads on cores with other work delay each other at every operation.
        "OMP_NUM_THREADS": str(threads or max(1, min(8, (os.cpu_count() or 1) // 2))),
        # `--enforce-eager` alone still compiles a kernel at the first request for logprobs: half a minute.
        "TORCH_COMPILE_DISABLE": "1",
        # Otherwise the CPU platform replaces the `uni` executor by a separate worker process.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_LOGGING_LEVEL": "INFO",
    }


def _config(folder: str) -> dict[str, Any]:
    value = json.loads((Path(folder) / "config.json").read_text())
    return value if isinstance(value, dict) else {}


def _context_length(folder: str) -> int:
    longest = _config(folder).get("max_position_embeddings")
    return min(longest, _MAX_CONTEXT_TOKENS) if isinstance(longest, int) and longest > 0 else _MAX_CONTEXT_TOKENS


def _lora_arguments(folder: str) -> tuple[str, ...]:
    # Some architectures fail to start with LoRA enabled; these are the supported ones.
    supported = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GemmaForCausalLM")
    return _LORA_ARGUMENTS if set(_config(folder).get("architectures") or ()) & set(supported) else ()
