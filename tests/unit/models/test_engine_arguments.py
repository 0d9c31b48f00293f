"""Which engine arguments a project may choose."""

from __future__ import annotations

import pytest

from llmariner.models.engine_arguments import first_disallowed_argument


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--max-model-len=4096"],
        ["--max-model-len", "8k", "--enforce-eager"],
        ["--dtype=bfloat16", "--no-enable-prefix-caching", "--gpu-memory-utilization", "0.85"],
        ['--limit-mm-per-prompt={"image": 2, "video": 0}', '--default-chat-template-kwargs={"enable_thinking": false}'],
        ["--tool-call-parser=hermes", "--seed", "0", "--quantization", "compressed-tensors"],
    ],
)
def test_tuning_arguments_are_allowed(arguments: list[str]) -> None:
    assert first_disallowed_argument(arguments) is None


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        (["--trust-remote-code"], 0),
        (["--trust_remote_code"], 0),
        (["--enforce-eager", "--middleware=evil.Tap"], 1),
        (["--mid=evil.Tap"], 0),
        (["--tool-parser-plugin=/mnt/models/evil.py"], 0),
        (["--reasoning-parser-plugin", "/mnt/models/evil.py"], 0),
        (["--logits-processors=evil:P"], 0),
        (["--allowed-local-media-path=/"], 0),
        (["--chat-template=/etc/passwd"], 0),
        (["--tokenizer=other/repository"], 0),
        (["--config=/mnt/models/config.yaml"], 0),
        (["--served-model-name=other"], 0),
        (["--host=0.0.0.0"], 0),
        (["--max-model-len=$(HF_TOKEN)"], 0),
        (["--max-model-len", "$(HF_TOKEN)"], 1),
        (["--max-model-len"], 0),
        (["--max-model-len="], 0),
        (["--max-model-len=4096\n"], 0),
        (["--max-model-len=٤٠٩٦"], 0),
        (["--max_model_len=4096"], 0),
        (["--dtype", "--trust-remote-code"], 1),
        (["--no-dtype"], 0),
        (["--enforce-eager=true"], 0),
        (["--enforce-eager", "other/model"], 1),
        (["--generation-config=/mnt/models"], 0),
        (["--tool-call-parser=../evil"], 0),
        (["--limit-mm-per-prompt={{.Name}}"], 0),
        (["--compilation-config.level=3"], 0),
        (["-tp=2"], 0),
        (["--"], 0),
        ([""], 0),
    ],
)
def test_any_other_argument_is_rejected_with_its_position(arguments: list[str], index: int) -> None:
    refused = first_disallowed_argument(arguments)
    assert refused is not None
    assert refused[0] == index
