"""`python -m llmariner.manifests [--check]`: write the generated files, or say which of them are stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmariner.manifests.declarations import DeclarationError
from llmariner.manifests.tree import stale_files, write_files

CHECKOUT = Path(__file__).parents[3]


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: written, or nothing to write. 1: stale, or a declaration is wrong."""
    parser = argparse.ArgumentParser(prog="python -m llmariner.manifests", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is stale")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="root of the project (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            for changed in write_files(options.checkout):
                print(changed)
            return 0
        differences = list(stale_files(options.checkout))
    except DeclarationError as error:
        print(error, file=sys.stderr)
        return 1
    if differences:
        print(*differences, "Run `make manifests` and commit the result.", sep="\n", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
