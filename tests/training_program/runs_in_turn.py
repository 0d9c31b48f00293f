"""Runs jobs one after another in this process: FOLDER URL… of their worker routes; their token comes by standard input.

Torch takes seconds to import, and longer than these jobs under load.
"""

import os
import sys
from collections.abc import Sequence

from llmariner.fine_tuning.training_program.__main__ import main

__all__ = ["run_in_turn"]


def run_in_turn(folder: str, urls: Sequence[str]) -> None:
    """Run them, up to one that fails."""
    token = sys.stdin.read()
    for number, url in enumerate(urls):
        settings = {"URL": url, "TOKEN": token, "FOLDER": f"{folder}/{number}"}
        os.environ.update({f"LLMARINER_TRAINING_{name}": value for name, value in settings.items()})
        if code := main():
            sys.exit(code)


if __name__ == "__main__":
    run_in_turn(sys.argv[1], sys.argv[2:])
