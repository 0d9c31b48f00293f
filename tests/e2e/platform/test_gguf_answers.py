"""GGUF files from an Ollama registry and from a folder, pulled by `llma` and answered by the real engine."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.settings import StandaloneSettings, environment
from llmariner.standalone.engine.packages import PACKAGED

from .packaged_gguf import gguf_of

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

_server = importlib.import_module("...standalone.model_server", __package__)
CAPITAL = "What is the capital of France?"
SAME = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors")


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for name in SAME:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def test_a_gguf_file_of_the_packaged_model_answers_as_that_does(platform: Platform, tmp_path: Path) -> None:
    if os.environ.get("LLMARINER_E2E_CLUSTER"):
        pytest.skip("the test cluster does not reach a registry of this process")
    packaged = PACKAGED[0].folder(StandaloneSettings.load(environment()).cache)
    file = tmp_path / "model" / "smollm2.gguf"
    file.parent.mkdir()
    file.write_bytes(gguf_of(packaged))
    said = platform.chat(CAPITAL, max_tokens=16)["choices"][0]["message"]["content"]
    assert "Paris" in said
    with _server.running_server(platform.registry_port) as server:
        layers = {"model": file.read_bytes(), "template": b"{{ .Prompt }}", "license": b"Apache-2.0"}
        server.repositories["smollm2:135m"] = {
            f"application/vnd.ollama.image.{name}": content for name, content in layers.items()
        }
        for source, location in (("ollama", "smollm2:135m"), ("local", str(file.parent))):
            named = ("--source-repository", source, "--model-file-location", location)
            done = platform.llma("models", "pull", f"gguf-{source}", *named, seconds=600)
            assert done.returncode == 0, done.stdout + done.stderr
            shown = json.loads(platform.llma("models", "get", f"gguf-{source}", "-o", "json").stdout)
            assert shown["traits"]["converted_from"] == "GGUF"
            [weights] = (platform.home / "models").glob(f"gguf-{source}*/model.safetensors")
            assert digests(weights.parent) == digests(packaged)
            answer = platform.chat(CAPITAL, model=f"gguf-{source}", max_tokens=16)
            assert answer["choices"][0]["message"]["content"] == said
            assert platform.llma("models", "delete", f"gguf-{source}").returncode == 0
