"""The scripts of the engine environment: progress, failures, exit with the parent process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmariner.standalone.engine.scripts import Scripts

from .script_environment import script_environment

_STARTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from standalone.script_environment import script_environment
from llmariner.standalone.engine.scripts import Scripts
Scripts(script_environment(Path(sys.argv[2]))).run(Path(sys.argv[3]), [], lambda said: print(said["pid"], flush=True))
"""


def script(folder: Path, text: str) -> Path:
    file = folder / "script.py"
    file.write_text(text)
    return file


def runs(pid: int) -> bool:
    """Whether the process runs; an exited one may not be reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_script_reports_its_progress_and_gets_its_arguments(tmp_path: Path) -> None:
    reported: list[dict[str, Any]] = []
    text = "import json, sys\nprint('no JSON')\nprint(json.dumps({'arguments': sys.argv[1:]}))\n"
    Scripts(script_environment(tmp_path)).run(script(tmp_path, text), ["ä b", "c"], reported.append)
    assert reported == [{"arguments": ["ä b", "c"]}]


def test_a_failed_script_has_a_reason(tmp_path: Path) -> None:
    scripts = Scripts(script_environment(tmp_path))
    with pytest.raises(OSError, match="no space left"):
        scripts.run(script(tmp_path, "raise SystemExit('no space left')"), [], print)


def test_a_hanging_script_is_terminated_and_one_with_progress_is_not(tmp_path: Path) -> None:
    reported: list[dict[str, Any]] = []
    scripts = Scripts(script_environment(tmp_path), silence_timeout=2)
    text = "import time\nfor _ in range(8):\n    time.sleep(0.4)\n    print('{}', flush=True)\n"
    scripts.run(script(tmp_path, text), [], reported.append)
    assert len(reported) == 8
    text = "import os, signal\nprint('{}', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    with pytest.raises(OSError, match="said nothing for 2 s"):
        scripts.run(script(tmp_path, text), [], reported.append)


def test_a_script_exits_when_its_parent_is_killed(tmp_path: Path) -> None:
    text = "import json, os, time\nprint(json.dumps({'pid': os.getpid()}), flush=True)\ntime.sleep(120)\n"
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", _STARTER, str(tests), str(tmp_path), str(script(tmp_path, text))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline, "it works on for nobody"
        time.sleep(0.02)
