"""The compiled token path of the standalone mode: used when it is there, made in the background when it is not.

`python -m llmariner.standalone.compiled_code CACHE` is the background process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from llmariner.compiled import SETTING, unusable
from llmariner.compiled.build import BuildFailed, build, folder_of, missing

__all__ = ["compile_in_background", "compile_into", "with_compiled_code"]

_KEPT_OTHERS = 3
# Far more than compiling takes on a busy machine.
_ABANDONED_SECONDS = 3600.0


def with_compiled_code(env: Mapping[str, str], cache: Path) -> dict[str, str]:
    """The environment of a process that shall run the compiled modules if there are any. A setting of the user's stays."""
    folder = folder_of(cache)
    return {**env, SETTING: str(folder)} if SETTING not in env and not unusable(folder) else dict(env)


def compile_in_background(cache: Path, log: Path) -> None:
    """Start to compile, for the next start of the platform, unless it was done or this machine lacks a compiler."""
    if SETTING in os.environ or missing() or not unusable(folder_of(cache)):
        return
    command = [sys.executable, "-P", "-m", "llmariner.standalone.compiled_code", str(cache)]
    # Models start meanwhile, and they come first.
    if nice := shutil.which("nice"):
        command = [nice, "-n", "19", *command]
    # The platform runs without it.
    with contextlib.suppress(OSError), log.open("ab") as output:
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def compile_into(cache: Path) -> None:
    """Compile these sources unless another process does, and remove what earlier ones left. Raises BuildFailed, OSError."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "compiled.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # A process that was killed leaves its folder, of some 20 MB.
        for left in cache.glob(".compiling-*"):
            if left.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        folder = folder_of(cache)
        if unusable(folder):
            shutil.rmtree(folder, ignore_errors=True)
            build(folder)
        # By name, since a clock that was set back makes the new one the oldest.
        others = [each for each in cache.glob("compiled-*") if each != folder]
        for old in sorted(others, key=lambda each: each.stat().st_mtime)[:-_KEPT_OTHERS]:
            shutil.rmtree(old, ignore_errors=True)


if __name__ == "__main__":
    try:
        compile_into(Path(sys.argv[1]))
    except (BuildFailed, OSError) as failure:
        sys.exit(str(failure))
