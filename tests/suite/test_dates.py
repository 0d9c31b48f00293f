"""Other dates are really seen by the processes of a run."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from . import dates
from .dates import DATES, Date, of_day, run

PROGRAM = """
import subprocess, sys, time
from datetime import datetime
monotonic = time.monotonic()
child = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], capture_output=True, text=True)
assert abs(float(child.stdout) - time.time()) < 30, "children have the same clock"
assert time.monotonic() - monotonic < 30
open(sys.argv[1], "w").write(f"{time.time()} {datetime.now().astimezone().utcoffset().total_seconds()}")
"""
UNTIL_SET_BACK = """
import time
last = time.time()
while time.time() > last - 60:
    last = time.time()
    time.sleep(0.05)
"""


def seen(date: Date, folder: Path) -> tuple[datetime, float]:
    assert run(date, [sys.executable, "-c", PROGRAM, str(folder / "seen")]) == 0
    at, offset = map(float, (folder / "seen").read_text().split())
    return datetime.fromtimestamp(at, UTC), offset / 3600


def test_processes_see_the_configured_day(tmp_path: Path) -> None:
    assert (seen(DATES["forty-days"], tmp_path)[0] - datetime.now(UTC)).days in (39, 40)
    assert seen(DATES["leap-day"], tmp_path)[0].strftime("%d %b %Y") in ("29 Feb 2028", "01 Mar 2028")


def test_processes_see_the_configured_time_zone(tmp_path: Path) -> None:
    assert seen(DATES["kiritimati"], tmp_path)[1] == 14
    assert seen(DATES["st-johns"], tmp_path)[1] in (-3.5, -2.5)


def test_the_clock_is_set_back_during_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dates, "_STEP_SECONDS", 1.0)
    assert run(DATES["set-back"], [sys.executable, "-c", UNTIL_SET_BACK]) == 0


def test_every_date_is_selected_in_turn() -> None:
    assert {of_day(number) for number in range(20_000, 20_000 + len(DATES))} == set(DATES)


@pytest.mark.parametrize(("body", "status"), [("assert SEEN.exists() or SEEN.touch()", 0), ("assert False", 1)])
@pytest.mark.parametrize("name", ["set-back", "kiritimati"])
def test_what_fails_runs_again_while_the_clock_is_not_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: int, name: str
) -> None:
    file, asked = tmp_path / "test_steps.py", list[Date]()
    file.write_text(f"from pathlib import Path\nSEEN = Path({str(tmp_path)!r}) / 'seen'\ndef test_one():\n    {body}\n")

    def run_and_record(date: Date, command: list[str]) -> int:
        asked.append(date)
        return run(date, command)

    monkeypatch.setattr(dates, "_TESTS", (str(file),))
    monkeypatch.setattr(dates, "run", run_and_record)
    assert dates.main([name]) == status
    assert [date.steps for date in asked] == [DATES[name].steps, False]
