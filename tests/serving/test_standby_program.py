"""The program of a standby pod, without vLLM: its exit reports the result of its engine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import SCRIPTED, free_port

CHECKOUT = Path(__file__).parents[2]
TOKEN = "standby-0123456789"
Start = Callable[..., tuple[subprocess.Popen[bytes], int]]
# The tests may run as root, which may look into every process: without any capability, as a pod is.
_AS_IN_A_POD = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Its process and control port, with this shell script in place of vLLM; `silence`: the timeout of its clients."""
    started: list[subprocess.Popen[bytes]] = []

    def run(engine: str, silence: float = 10.0) -> tuple[subprocess.Popen[bytes], int]:
        shutil.copy(CHECKOUT / "shared/llmariner/platform/serving/local_processes/launcher.py", tmp_path)
        before, seconds, after = (CHECKOUT / "images/engine/standby.py").read_text().partition("SECONDS = 10.0\n")
        assert seconds
        (tmp_path / "standby.py").write_text(f"{before}SECONDS = {silence}\n{after}")
        (tmp_path / "python").symlink_to(sys.executable)
        (tmp_path / "vllm").write_text(f"#!/bin/sh\n{engine}\n")
        (tmp_path / "vllm").chmod(0o755)
        port = free_port()
        said = {"STANDBY_TOKEN": TOKEN, "CONTROL_PORT": str(port), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", _AS_IN_A_POD, str(tmp_path / "python"), str(tmp_path / "standby.py")]
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(command, env={**os.environ, **said}, stderr=log)
        log.close()
        started.append(process)
        until(lambda: answers(port, "/ready"))
        return process, port

    yield run
    for process in started:
        process.kill()
        process.wait(10)


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
            return True
    except OSError:
        return False


def assign_model(port: int, *argv: str) -> None:
    body = json.dumps({"model": "m", "argv": ["serve", *argv]}).encode()
    head = {"authorization": f"Bearer {TOKEN}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"http://127.0.0.1:{port}/start", body, head), timeout=5
    ) as answer:
        assert answer.status == 202


def test_a_failed_engine_ends_the_container_with_its_last_output(start: Start, tmp_path: Path) -> None:
    process, port = start("echo no such weights >&2; exit 3")
    assign_model(port)
    assert process.wait(20) == 1
    log = (tmp_path / "log").read_text()
    assert "no such weights" in log
    assert "Traceback" not in log


def test_an_engine_that_exits_with_status_0_unasked_is_a_failure(start: Start) -> None:
    process, port = start("exit 0")
    assign_model(port)
    assert process.wait(20) == 1


def test_a_requested_stop_lets_the_engine_finish(start: Start, tmp_path: Path) -> None:
    """Longer than the moment that a launcher gives whose platform is gone."""
    process, port = start(
        f"trap 'sleep 7; touch {tmp_path}/finished; exit 0' TERM; touch {tmp_path}/up; sleep 60 & wait"
    )
    assign_model(port)
    until((tmp_path / "up").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert (tmp_path / "finished").exists()


def test_an_engine_does_not_inherit_the_token(start: Start, tmp_path: Path) -> None:
    _, port = start(f"env > {tmp_path}/environment; touch {tmp_path}/up; sleep 60 & wait")
    assign_model(port)
    until((tmp_path / "up").exists)
    environment = (tmp_path / "environment").read_text()
    assert "CONTROL_PORT" in environment
    assert TOKEN not in environment


def test_an_idle_program_stops_at_once(start: Start) -> None:
    process, _ = start("exit 0")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert time.monotonic() - began < 5


def test_the_engine_listens_where_its_arguments_say(start: Start) -> None:
    port = free_port()
    process, control = start(f"exec {sys.executable} {SCRIPTED} --port {port}")
    assign_model(control)
    until(lambda: answers(port, "/health"))
    assert not answers(control, "/ready")
    assert process.poll() is None


def status(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@pytest.mark.parametrize("asked", ["as_expected", "differs", "pending"])
@pytest.mark.parametrize("form", [("--port=1", "--port={}"), ("--port", "1", "--port", "{}")])
def test_the_status_has_the_engines_answer_check(form: tuple[str, ...], asked: str, start: Start) -> None:
    port = free_port()
    _, control = start(f"exec {sys.executable} {SCRIPTED} --port {port} --first-answer {asked}")
    assert status(control)["engine"] is None
    assign_model(control, *(each.format(port) for each in form))
    until(lambda: answers(port, "/health"))
    engine = status(control)["engine"]
    assert (engine["model"], engine["answer"]) == ("m", asked)
    assert engine["usage"] == {"prompt_tokens": 33, "completion_tokens": 8}


def test_an_engine_without_an_answer_check_has_no_result(start: Start) -> None:
    port = free_port()
    _, control = start(f"exec {sys.executable} {SCRIPTED} --port {port}")
    nothing = {"prompt_tokens": 0, "completion_tokens": 0}
    assign_model(control, f"--port={port}")
    assert status(control)["engine"].items() >= {"answer": "not_asked", "usage": nothing}.items()
    until(lambda: answers(port, "/health"))
    assert status(control)["engine"].items() >= {"answer": "not_asked", "usage": nothing}.items()


HOSTILE = (
    *(b"HTTP/1.1 200 OK\r\n\r\n" + body for body in (b"", b"5", b"[]", b"{}", b"[" * 60_000, b"9" * 9_000_000)),
    *(
        b"",
        b"nothing like HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        b'HTTP/1.1 500 No\r\n\r\n{"answer": "differs", "usage": {}}',
    ),
)


def test_the_status_is_valid_for_any_output_of_the_engine(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:
        engine.settimeout(20)
        _, control = start("sleep 60 & wait")
        assign_model(control, f"--port={engine.getsockname()[1]}")
        for response in HOSTILE:
            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(status, control)
                connection, _ = engine.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(response)
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(4096)
                assert found.result(20)["engine"]["answer"] == "not_asked", response[:100]


@pytest.mark.parametrize("length", ["²", "1" * 5000, "-1", "1_0", "65537", ""])
def test_an_invalid_content_length_is_rejected(length: str, start: Start) -> None:
    _, port = start("exit 0")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST /start HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        assert b" 411 " in connection.recv(4096).splitlines()[0]


@pytest.mark.parametrize("grace", ["NaN", "Infinity", "-1", "1e300", '"1"'])
def test_an_unbounded_grace_period_is_rejected(grace: str, start: Start) -> None:
    _, port = start("sleep 60")
    assign_model(port)
    head = {"authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/stop", f'{{"grace": {grace}}}'.encode(), head)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=5)


@pytest.mark.parametrize("said", [b"", b"GET /li", b"POST /start HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{"])
def test_a_silent_client_occupies_a_thread_for_a_limited_time(start: Start, said: bytes) -> None:
    _, port = start("exit 0", silence=0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=8) as connection:
        connection.sendall(said)
        assert connection.recv(4096) == b""


def test_the_token_is_not_readable_from_the_process(start: Start) -> None:
    process, _ = start("sleep 60")
    (launcher,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid, readable in ((process.pid, False), (int(launcher), True)):
        command = [sys.executable, "-c", _AS_IN_A_POD, shutil.which("cat") or "cat", f"/proc/{pid}/environ"]
        said = subprocess.run(command, capture_output=True, check=False)
        assert (said.returncode == 0) is readable, said.stderr
        assert TOKEN.encode() not in said.stdout
