"""Messages of failed models: those for every user, and details for operators only."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from llmariner.platform.serving import Phase
from llmariner.platform.serving.redaction import redact_paths

from .driver import processes
from .scripted_engines import model, scripted_settings
from .test_lora_adapters import BASE, TUNED, engine

_FAILS = """#!{python}
import sys
print("INFO loading /home/me/models", flush=True)
sys.exit("(APIServer pid=12) ValueError: no kernel for 'gelu', see '/home/My Name/a b/config.json' or /home/me/x: no")
"""


@pytest.mark.parametrize(
    ("said", "reported"),
    [
        ("no file /a/b.json: gone", "no file [path] gone"),
        ("in '/My Disk/a b/c' or \"C:\\My Disk\\x\" or `/a b`", "in [path] or [path] or [path]"),
        ("it's done, isn't it?", "it's done, isn't it?"),
        ("key=file:///a/b (/c)", "[path] [path]"),
        ("", ""),
    ],
)
def test_paths_are_redacted(said: str, reported: str) -> None:
    assert redact_paths(said) == reported


def test_a_failed_start_reports_its_cause_and_keeps_the_log_separate(tmp_path: Path) -> None:
    settings = scripted_settings(tmp_path)
    (tmp_path / "bin/vllm").write_text(_FAILS.format(python=sys.executable))
    with processes(settings, model(tmp_path, "a")) as (driver, _):
        for _ in range(2):
            driver.wake("a")
            status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
            assert status.message == (
                "The engine ended while loading: ValueError: no kernel for 'gelu', see [path] or [path] no"
            )
            assert "INFO loading /home/me/models" in status.detail
        driver.wake("a")
        driver.run_loop_for(0.3)
        waiting = driver.status("a")
        assert (waiting.phase, "/home" in waiting.message, "/home" in waiting.detail) == (Phase.QUEUED, False, True)


def test_an_engine_that_exits_while_serving_reports_no_output(tmp_path: Path) -> None:
    with processes(scripted_settings(tmp_path), model(tmp_path, "a")) as (driver, serving):
        driver.ready("a")
        found = serving._engines["a"]
        with found.log.open("a") as log:
            log.write("ValueError: the prompt 'somebody else asked this' broke it\n")
        os.kill(found.pid or 0, signal.SIGKILL)
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
    assert status.message == "The engine ended unexpectedly."
    assert "somebody else" in status.detail


def test_missing_weights_are_reported_without_their_path(tmp_path: Path) -> None:
    gone = model(tmp_path, "a")
    (Path(gone.folder) / "config.json").unlink()
    with processes(scripted_settings(tmp_path), gone) as (driver, _):
        driver.wake("a")
        status = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
    assert "No such file" in status.message
    assert (str(tmp_path) in status.message, str(tmp_path) in status.detail) == (False, True)


def test_an_engine_crash_during_an_adapter_load_fails_that_adapter_only(tmp_path: Path) -> None:
    base, first, _ = engine(tmp_path, "")
    with processes(scripted_settings(tmp_path), base, first) as (driver, serving):
        driver.ready(BASE)
        found = serving._engines[BASE]
        found.endpoint += "-elsewhere"
        driver.wake(TUNED)
        assert driver.status(TUNED).message == "The engine refused the adapter: it does not answer"
        found.endpoint = found.endpoint.removesuffix("-elsewhere")
        driver.ready(TUNED)
