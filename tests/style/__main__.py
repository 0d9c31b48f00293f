"""`python -m tests.style`: words and module names that the project does not use; part of `make check`."""

import sys

from .modules import module_faults
from .words import faults, files


def main() -> int:
    """Print what was found; the exit status is 1 if there was anything."""
    found = [*module_faults(files()), *faults()]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
