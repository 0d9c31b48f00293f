"""Run a script that ends with its parent process: SCRIPT ARGUMENTS. Runs in the engine environment.

The parent holds the other end of standard input: when that closes, the parent has exited or crashed.
"""

import os
import runpy
import sys
import threading


def _exit_at_end_of_input() -> None:
    # Not `sys.stdin`: a thread that holds its lock at interpreter exit is a fatal error.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
