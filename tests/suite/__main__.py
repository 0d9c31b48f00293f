"""`python -m tests.suite PART...`: what `make test` runs."""

import sys

from .parts import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
