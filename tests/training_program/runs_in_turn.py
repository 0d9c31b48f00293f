"""Runs jobs one after another in this process: FOLDER URL… of their worker routes; their token comes by standard input.

Torch takes seconds to import, and longer than these jobs under load.
"""

import os
import sys

from llmariner.fine_tuning.training_program.__main__ import main

if __name__ == "__main__":
    token, folder = sys.stdin.read(), sys.argv[1]
    for number, url in enumerate(sys.argv[2:]):
        settings = {"URL": url, "TOKEN": token, "FOLDER": f"{folder}/{number}"}
        os.environ.update({f"LLMARINER_TRAINING_{name}": value for name, value in settings.items()})
        if code := main():
            sys.exit(code)
