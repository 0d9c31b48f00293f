"""The commands for this machine with the real `llmariner.standalone`, in home folders where nothing expensive starts."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.platform.serving.local_processes.engine import log_name

if TYPE_CHECKING:
    from cli.conftest import Llma

SECRET = "sk-admin-abcdefghijklmnopqrstuvw"


@pytest.fixture
def empty_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = home / "cache"
    monkeypatch.setenv("LLMARINER_CACHE", str(cache))
    return cache


@pytest.fixture
def platform_home(home: Path) -> Iterator[Path]:
    """A home whose platform seems to run: this process holds its lock."""
    root = home / ".llmariner"
    (root / "logs").mkdir(parents=True)
    (root / "admin.key").write_text(SECRET)
    (root / "logs/platform.log").write_text("".join(f"line {number}\n" for number in range(9)))
    (root / "logs" / log_name("org/tiny")).write_text("engine line\n")
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (root / "platform.json").write_text(json.dumps({"pid": os.getpid()}))
        yield root


def test_down_reports_that_nothing_ran(bare_llma: Llma) -> None:
    result = bare_llma("down")
    assert (result.code, result.out) == (0, "It was not running.\n")
    assert bare_llma("down", "-o", "json").json == {"stopped": False}


def test_up_reports_a_running_platform_and_shows_no_key(
    platform_home: Path, bare_llma: Llma, monkeypatch: pytest.MonkeyPatch
) -> None:
    with healthy_server() as port:
        monkeypatch.setenv("LLMARINER_PORT", str(port))
        result = bare_llma("up")
    assert result.code == 0, result.err
    assert f"runs already at http://127.0.0.1:{port}" in result.out
    assert SECRET not in result.out + result.err


@contextmanager
def healthy_server() -> Iterator[int]:
    """The port of a server that answers every GET with 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: standard error is the test's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_logs_shows_the_requested_number_of_lines(platform_home: Path, program: list[str]) -> None:
    """In a process of its own: the log is printed by `tail`, which no capture of this process's stdout sees."""

    def shown(*arguments: str) -> str:
        return subprocess.run([*program, "logs", *arguments], capture_output=True, text=True, check=True).stdout

    assert shown("-n", "2") == "line 7\nline 8\n"
    assert shown("org/tiny") == "engine line\n"


def test_logs_of_a_model_without_any_lists_existing_ones(platform_home: Path, bare_llma: Llma) -> None:
    result = bare_llma("logs", "other")
    assert result.code == 5
    assert "platform.log" in result.err
    assert "llma doctor" in result.err


def test_doctor_has_a_remedy_for_each_missing_part(bare_llma: Llma, empty_cache: Path) -> None:
    shown = bare_llma("doctor")
    assert shown.code == 5
    assert shown.out.splitlines()[0].split() == ["CHECK", "RESULT", "DETAIL", "TO", "MEND", "IT"]
    assert "`llma up`" in shown.out
    assert "engine environment" in shown.err
    checks = {check["check"]: check for check in bare_llma("doctor", "-o", "json").json["checks"]}
    assert checks["python"]["ok"]
    assert checks["python"]["mend"] == ""
    assert not checks["engine environment"]["ok"]


@pytest.mark.parametrize("line", [("up",), ("down",), ("logs",), ("doctor",)], ids=lambda line: line[0])
def test_an_invalid_setting_is_named(line: tuple[str, ...], bare_llma: Llma, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMARINER_PORT", "70000")
    result = bare_llma(*line)
    assert result.code == 2
    assert "LLMARINER_PORT must be at most 65535" in result.err


def test_a_home_that_cannot_be_created_is_a_machine_error(
    bare_llma: Llma, home: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:  # the port is looked at before the folders
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("LLMARINER_PORT", str(probe.getsockname()[1]))
    empty_cache.write_text("a file where a folder should be")
    result = bare_llma("up")
    assert result.code == 5
    assert str(empty_cache) in result.err
