"""The main part of the scripts that test clients: try every capability, print a line for each."""

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Skipped", "error_of", "report"]


class Skipped(Exception):
    """The environment does not name what this capability needs."""


def report(capabilities: Sequence[Callable[..., None]], *arguments: Any) -> int:
    """A line for each: `ok NAME`, `skipped NAME: why` or `failed NAME: why`. What fails does not stop the rest.

    1 if anything failed, else 0.
    """
    failed = False
    for capability in capabilities:
        try:
            capability(*arguments)
            print(f"ok {capability.__name__}", flush=True)
        except Skipped as reason:
            print(f"skipped {capability.__name__}: {reason}", flush=True)
        except Exception as error:
            failed = True
            print(f"failed {capability.__name__}: {type(error).__name__}: {error}".replace("\n", " "), flush=True)
    return int(failed)


def error_of(ask: Callable[[], Any]) -> Any:
    """The error that the SDK raises for a response; the result where it raises none."""
    import openai

    try:
        return ask()
    except openai.APIStatusError as error:
        return error
