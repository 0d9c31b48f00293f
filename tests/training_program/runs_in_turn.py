"""Runs jobs one after another in this process: FOLDER URL… of their worker routes; their token comes by standard input.

Torch takes seconds to import, and longer than these jobs under load. A job whose URL has `KILLED` before it runs in a child,
which may be killed: FOLDER/NUMBER.pid has its id.
"""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from llmariner.fine_tuning.training_program.__main__ import main

__all__ = ["KILLED", "run_in_turn"]

KILLED = "killed+"


def run_in_turn(folder: str, urls: Sequence[str]) -> None:
    """Run them, up to one that fails."""
    token = sys.stdin.read()
    for number, url in enumerate(urls):
        settings = {"URL": url.removeprefix(KILLED), "TOKEN": token, "FOLDER": f"{folder}/{number}"}
        os.environ.update({f"LLMARINER_TRAINING_{name}": value for name, value in settings.items()})
        if code := run_in_child(Path(folder, f"{number}.pid")) if url.startswith(KILLED) else main():
            sys.exit(code)


def run_in_child(process_file: Path) -> int:
    """The exit code of a job; 0 also where it was killed."""
    importlib.import_module("llmariner.fine_tuning.training_program.trainer")
    process_file.parent.mkdir(exist_ok=True)
    if not (child := os.fork()):
        process_file.write_text(str(os.getpid()))
        os._exit(main())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return 0 if code == -signal.SIGKILL else code


if __name__ == "__main__":
    run_in_turn(sys.argv[1], sys.argv[2:])
