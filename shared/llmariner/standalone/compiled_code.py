"""The compiled token path of the standalone mode: used when it is there, made in the background when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from llmariner.compiled import SETTING
from llmariner.compiled.build import folder_of, missing

__all__ = ["compile_in_background", "with_compiled_code"]


def with_compiled_code(env: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The environment of a process that shall run the compiled modules if there are any. A setting of the user's stays."""
    folder = folder_of(cache)
    return {**env, SETTING: str(folder)} if SETTING not in env and folder.is_dir() else dict(env)


def compile_in_background(cache: Path, log: Path) -> None:
    """Start to compile, for the next start of the platform, unless it was done or this machine lacks a compiler."""
    folder = folder_of(cache)
    if SETTING in os.environ or folder.is_dir() or missing():
        return
    command = [sys.executable, "-P", "-m", "llmariner.compiled.build", "--into", str(folder)]
    # Models start meanwhile, and they come first.
    if nice := shutil.which("nice"):
        command = [nice, "-n", "19", *command]
    with log.open("ab") as output:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
