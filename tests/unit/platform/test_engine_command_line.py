"""The command line of an engine: required arguments come after those of the model."""

from __future__ import annotations

import json
from pathlib import Path

from llmariner.platform.serving import EngineModel
from llmariner.platform.serving.local_processes.command_line import USAGE_MIDDLEWARE, engine_arguments

CHOSEN = (
    *("--served-model-name", "another", "--host", "192.0.2.1", "--port", "1", "--uds", "/tmp/open.sock"),
    *("--middleware", "evil.Tap", "--trust-remote-code"),
)


def last(arguments: list[str], flag: str) -> str:
    """What vLLM takes: of a flag that is there twice, the last."""
    return arguments[len(arguments) - arguments[::-1].index(flag)]


def test_required_arguments_come_last(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    model = EngineModel("name@proj_1", str(tmp_path), "generate", 1, extra_args=CHOSEN)
    arguments = engine_arguments(model, tmp_path / "own.sock")
    assert last(arguments, "--served-model-name") == "name"
    assert last(arguments, "--host") == "127.0.0.1"
    assert last(arguments, "--uds") == str(tmp_path / "own.sock")
    assert arguments[-3:] == ["--middleware", USAGE_MIDDLEWARE, "--no-trust-remote-code"]
    assert last(engine_arguments(model, 8000), "--port") == "8000"
