"""`python -m llmariner.authorization [--check]`: write docs/security/authorization.md, or report that it is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmariner.authorization.markdown import PAGE, render_page
from llmariner.authorization.matrix import UndeclaredRouteError

CHECKOUT = Path(__file__).parents[3]


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: written, or fresh. 1: stale, or a route declares no scope."""
    parser = argparse.ArgumentParser(prog="python -m llmariner.authorization", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page is stale")
    parser.add_argument("--checkout", type=Path, default=CHECKOUT, help="root of the project (%(default)s)")
    chosen = parser.parse_args(arguments)
    place = chosen.checkout / PAGE
    try:
        text = render_page(chosen.checkout)
    except UndeclaredRouteError as error:
        print(error, file=sys.stderr)
        return 1
    if chosen.check:
        if place.is_file() and place.read_text() == text:
            return 0
        print(f"{PAGE} is stale. Run `python -m llmariner.authorization` and commit the result.", file=sys.stderr)
        return 1
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
