"""Logs of engines are bounded and never read as a whole."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmariner.platform.serving import Phase, log_files
from llmariner.platform.serving.local_processes import engine
from llmariner.platform.serving.log_files import reset, rotate, tail

from .driver import processes
from .scripted_engines import model, scripted_settings

_TALKS = """#!{python}
import sys
for number in range(100_000):
    print(f"line {{number}}", "x" * 100)
sys.exit("RuntimeError: enough")
"""


def test_appending_continues_after_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab") as output:
        program = "print('x' * 150 + 'end', flush=True); input(); print('more', flush=True)"
        writer = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=output)
    while not log.stat().st_size:
        pass
    rotate(log, 200)
    assert log.stat().st_size == 154
    rotate(log, 100)
    assert log.stat().st_size == 0
    assert tail(log) == (tmp_path / "a.log.1").read_text() == "x" * 96 + "end\n"
    assert stat.S_IMODE((tmp_path / "a.log.1").stat().st_mode) == 0o600
    writer.communicate(b"\n", timeout=20)
    assert log.read_text() == "more\n"
    rotate(log, 1)
    assert (tmp_path / "a.log.1").read_text() == "\n"
    rotate(tmp_path / "none.log", 1)
    reset(log)
    assert (log.read_bytes(), list(tmp_path.iterdir())) == (b"", [log])


def test_a_log_is_truncated_if_its_end_cannot_be_copied(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 10)
    (tmp_path / "a.log.1").mkdir()
    rotate(log, 1)
    assert log.stat().st_size == 0


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 100_000 + "end")
    assert (len(tail(log)), tail(log)[-4:]) == (64 * 1024, "xend")
    assert (tail(log, after=100_000), tail(log, after=200_000)) == ("end", "")
    assert tail(tmp_path / "none.log") == ""


def test_endless_output_of_an_engine_is_bounded_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "rotate", lambda log: log_files.rotate(log, 200_000))
    settings = scripted_settings(tmp_path)
    (tmp_path / "bin/vllm").write_text(_TALKS.format(python=sys.executable))
    with processes(settings, model(tmp_path, "a")) as (driver, serving):
        driver.wake("a")
        log = serving._engines["a"].log
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
        assert status.message.endswith("RuntimeError: enough")
        assert log.with_name(f"{log.name}.1").stat().st_size == 200_000
