"""Run a script so that it ends with whoever started it: SCRIPT ARGUMENTS. Runs in the engine environment.

The starter holds the other end of standard input: when that ends, the starter is gone, however it went, and the work of
the script is nobody's any more.
"""

import os
import runpy
import sys
import threading


def _end_with_input() -> None:
    # Not through `sys.stdin`: a thread that holds its lock at the end of the interpreter is a fatal error.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_input, daemon=True).start()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
