"""The main part of the scripts that test storage: try every capability, print a line for each."""

from collections.abc import Callable, Sequence

__all__ = ["report"]


def report(capabilities: Sequence[Callable[[], None]]) -> int:
    """`ok NAME` or `failed NAME: why` for each; what fails does not stop the rest. 1 if anything failed."""
    failed = False
    for capability in capabilities:
        try:
            capability()
            print(f"ok {capability.__name__}", flush=True)
        except Exception as error:
            failed = True
            print(f"failed {capability.__name__}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
    return int(failed)
