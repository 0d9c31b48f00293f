"""Engine arguments that a project may choose for its own models: an allow-list of vLLM's flags and of their values.

Flags that load code, read files, open network addresses or change how usage is counted are not in the list. A flag that is
not in the list requires the scope `api.model.admin`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["ALLOWED_ARGUMENTS", "first_disallowed_argument"]

_COUNT = "[1-9][0-9]{0,5}"
_NAME = "[a-z0-9][a-z0-9_-]{0,39}"

ALLOWED_ARGUMENTS: dict[str, str] = {
    "--block-size": "8|16|32|64|128",
    "--chat-template-content-format": "auto|string|openai",
    "--default-chat-template-kwargs": r'\{"(enable_thinking|thinking)": ?(true|false)\}',
    "--dtype": "auto|half|float16|bfloat16|float|float32",
    "--generation-config": "auto|vllm",
    "--gpu-memory-utilization": r"0?\.[0-9]{1,3}",
    "--kv-cache-dtype": "auto|bfloat16|fp8|fp8_e4m3|fp8_e5m2",
    "--limit-mm-per-prompt": r'\{"(image|video|audio)": ?[0-9]{1,3}(, ?"(image|video|audio)": ?[0-9]{1,3}){0,2}\}',
    "--max-logprobs": "[0-9]{1,3}",
    "--max-lora-rank": "8|16|32|64|128|256",
    "--max-model-len": f"{_COUNT}[kK]?|[1-9][0-9]{{6,7}}",
    "--max-num-batched-tokens": _COUNT,
    "--max-num-seqs": "[1-9][0-9]{0,3}",
    "--pipeline-parallel-size": "[1-9][0-9]?",
    "--quantization": _NAME,
    "--reasoning-parser": _NAME,
    "--seed": "[0-9]{1,9}",
    "--tensor-parallel-size": "[1-9][0-9]?",
    "--tokenizer-mode": "auto|slow|mistral",
    "--tool-call-parser": _NAME,
    # Switches, each also as `--no-…`.
    "--async-scheduling": "",
    "--enable-auto-tool-choice": "",
    "--enable-chunked-prefill": "",
    "--enable-prefix-caching": "",
    "--enforce-eager": "",
    "--exclude-tools-when-tool-choice-none": "",
}
"""Flag → pattern of its value; a flag with an empty pattern takes no value. Names match exactly: abbreviations and
underscores, which vLLM accepts too, are not allowed."""


def first_disallowed_argument(arguments: Sequence[str]) -> tuple[int, str] | None:
    """The index of the first argument that is not allowed and the reason; None where all are allowed.

    Both `--flag=value` and `--flag value` are read.
    """
    index = 0
    while index < len(arguments):
        flag, equals, value = arguments[index].partition("=")
        pattern = ALLOWED_ARGUMENTS.get(f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else flag)
        if pattern is None or (pattern and flag.startswith("--no-")):
            return index, f"'{flag[:80]}' is not among the engine arguments that a project may choose"
        if pattern and not equals:
            index += 1
            value = arguments[index] if index < len(arguments) else ""
        if not re.fullmatch(pattern, value, re.ASCII) or (equals and not pattern):
            return min(index, len(arguments) - 1), f"'{value[:80]}' is no value that a project may choose for '{flag}'"
        index += 1
    return None
