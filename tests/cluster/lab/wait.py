"""Waits with a limit: what for and since when is shown, and a failure says what the wait last saw."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from llmariner.standalone.progress import Step

__all__ = ["LabError", "run", "until"]


class LabError(Exception):
    """The test cluster can't be built or started; the message says what failed and where its log is."""


def run(*command: object, text: str | None = None, seconds: float = 120) -> str:
    """Run a command to its end and give its standard output; LabError with its last words if it fails."""
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(argv[:6])}: {error}") from error
    if done.returncode:
        raise LabError(f"{' '.join(argv[:12])} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def until(what: str, check: Callable[[], str | None], *, seconds: float = 120, pause: float = 0.5) -> None:
    """Wait until `check` gives None (it is so); what it gives until then is what is missing. LabError at the limit."""
    limit = time.monotonic() + seconds
    with Step(what) as step:
        while (missing := check()) is not None:
            if time.monotonic() > limit:
                raise LabError(f"{what}: not within {seconds:.0f} s; still missing: {missing}")
            step.note = missing
            time.sleep(pause)
