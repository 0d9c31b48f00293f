"""The fast tests on other days and in other places: `python -m tests.suite.dates NAME`.

A library of our own stands between every process of the run and the clock of the day. (libfaketime can't: where it leaves
the monotonic clock alone, every sleep of Python's fails.) Of the suite, what is asked here is where days and hours are
reckoned with.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from .parts import PYTEST

__all__ = ["DATES", "main", "of_day"]

ROOT = Path(__file__).resolve().parents[2]
# Where days, hours and their ends are reckoned with.
_TESTS = (
    *("tests/unit", "tests/limits", "tests/contract", "tests/cli"),
    *("tests/functions/test_api_keys.py", "tests/functions/test_key_bounds.py", "tests/functions/test_limits.py"),
    *("tests/functions/test_usage.py", "tests/functions/test_consumers.py", "tests/identity/test_tokens.py"),
)
# PostgreSQL starts with an environment of its own, and so with the real clock; the same tests run on SQLite.
_MARKS = "not engine and not cluster and not postgres"
_OPTIONS = (
    *("-q", "-m", _MARKS, "--numprocesses", "auto", "--maxprocesses", "8", "--dist", "loadfile"),
    *("-o", "cache_dir=.pytest_cache/dates"),
)
_STEPS = (-90.0, -3700.0, -86_500.0)
_STEP_SECONDS = 20.0
_TESTS_FAILED = 1
_SOURCE = Path(__file__).with_name("clock.c")


@dataclass(frozen=True)
class Date:
    """A clock and a time zone.

    `ahead`: days; `begins`: the moment in UTC that it is at first; `steps`: it is set back again and again.
    """

    ahead: float = 0
    begins: datetime | None = None
    zone: str = "UTC"
    steps: bool = False

    def shift(self) -> float:
        """Seconds that the clock is ahead by at first."""
        return self.begins.timestamp() - time.time() if self.begins else self.ahead * 86_400

    def after_steps(self) -> Date:
        """The same day once its clock is not set back any more.

        A step in the middle of a signed request ends it rightly: both ends have read another time.
        """
        return replace(self, ahead=_STEPS[-1] / 86_400, steps=False) if self.steps else self


DATES = {
    "tomorrow": Date(ahead=1),
    "forty-days": Date(ahead=40),
    # The year ends while the tests run, and so does February.
    "new-year": Date(begins=datetime(2026, 12, 31, 23, 59, tzinfo=UTC)),
    "leap-day": Date(begins=datetime(2028, 2, 29, 23, 59, tzinfo=UTC)),
    "set-back": Date(steps=True),
    "kiritimati": Date(zone="Pacific/Kiritimati"),
    "st-johns": Date(zone="America/St_Johns"),
}


def of_day(number: int) -> str:
    """The name whose turn it is on a day, numbered in any way."""
    return list(DATES)[number % len(DATES)]


def run(date: Date, command: list[str]) -> int:
    """The exit status of a command on that date."""
    with TemporaryDirectory() as folder:
        library, clock, ended = Path(folder) / "clock.so", Path(folder) / "clock", threading.Event()
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], check=True)
        clock.write_bytes(struct.pack("d", date.shift()))
        environment = {**os.environ, "TZ": date.zone, "LD_PRELOAD": str(library), "CLOCK_SHIFT": str(clock)}
        stepping = threading.Thread(target=_step, args=(date, clock, ended))
        stepping.start()
        try:
            return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        finally:
            ended.set()
            stepping.join()


def _step(date: Date, clock: Path, ended: threading.Event) -> None:
    for step in _STEPS if date.steps else ():
        if ended.wait(_STEP_SECONDS):
            return
        # In place: every process has the file mapped.
        with clock.open("r+b") as file:
            file.write(struct.pack("d", step))


def main(arguments: list[str]) -> int:
    """The exit status of the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.suite.dates", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*DATES, ""], help="by default each in turn, a day each")
    name = parser.parse_args(arguments).name or of_day(int(time.time()) // 86_400)
    date, command = DATES[name], [*PYTEST, *_OPTIONS, *_TESTS]
    print(f"The tests on the date {name}: {date}", flush=True)
    failed = run(date, command)
    if failed == _TESTS_FAILED:
        print("What failed runs once more, in one process; a clock that was set back stands now.", flush=True)
        again = ("--numprocesses", "0", "--last-failed", "--last-failed-no-failures", "none")
        failed = run(date.after_steps(), [*command, *again])
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
