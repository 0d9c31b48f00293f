"""`python -m tests.cluster.platform up|down|status`: the platform on the test cluster, as an operator installs it."""

from __future__ import annotations

import argparse
import sys
import time

from ..lab.places import Lab, chosen
from ..lab.wait import LabError
from .installed import Installed, install, uninstall


def main() -> int:
    """The command's exit code: 0, or 1 with one message about what failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.platform", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status"))
    parser.add_argument("--number", type=int, choices=(0, 1), default=chosen().number, help="which of two clusters")
    words, began = parser.parse_args(), time.monotonic()
    lab = Lab(words.number)
    try:
        if words.command == "up":
            install(lab)
            print(f"The platform is installed after {time.monotonic() - began:.0f} s.")
        if words.command == "down":
            uninstall(lab)
        else:
            print(Installed(lab).summary())
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
