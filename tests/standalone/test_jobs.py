"""Batch jobs of the platform on one machine: run, and interrupted by its death."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from .test_daemon import Env, environment_of, llma

NEW = {"image": "pytorch-2.1", "scripts": {"run.sh": "ZWNobyBnbzsgc2xlZXAgMTAwMA=="}}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    made = environment_of(tmp_path / "home", tmp_path / "cache")
    yield made
    llma(made, "down")


def call(env: Env, method: str, path: str, body: Any = None) -> Any:
    """The JSON of a response, or its text."""
    key = (Path(env["LLMARINER_HOME"]) / "admin.key").read_text()
    url = f"http://127.0.0.1:{env['LLMARINER_PORT']}/v1/batch/jobs{path}"
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        text = response.read().decode()
    return json.loads(text) if "json" in response.headers["content-type"] else text


def start(env: Env, job_id: str, command: str) -> Any:
    """The response to the start of a program in a job."""
    key = (Path(env["LLMARINER_HOME"]) / "admin.key").read_text()
    url = f"http://127.0.0.1:{env['LLMARINER_PORT']}/v1/batch/jobs/{job_id}/exec"
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    body = json.dumps({"command": ["sh", "-c", command]}).encode()
    return urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60)


def run(env: Env, job_id: str, command: str) -> tuple[bytes, int]:
    """The output and exit code of a program in a job."""
    with start(env, job_id, command) as response:
        events = [json.loads(line.removeprefix(b"data: ")) for line in response if line.startswith(b"data: ")]
    return b"".join(base64.b64decode(each["data"]) for each in events[:-1]), events[-1]["exit_code"]


def wait_for(env: Env, job_id: str, *statuses: str) -> Any:
    deadline = time.monotonic() + 90
    while (job := call(env, "GET", f"/{job_id}"))["status"] not in statuses:
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
    return job


def test_jobs_run_and_those_of_a_killed_platform_are_interrupted(env: Env, tmp_path: Path) -> None:
    done = llma(env, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        made = call(env, "POST", "", {**NEW, "command": f"ls {tmp_path / 'home'}; sh scripts/run.sh"})
    except HTTPError as error:
        answer = json.loads(error.read())["error"]
        assert answer["code"] == "no_job_runner", answer
        pytest.skip(answer["message"])
    assert "engines and not in the image" in made["environment"]
    wait_for(env, made["id"], "running")
    queued = call(env, "POST", "", {**NEW, "command": "echo done"})["id"]
    deadline = time.monotonic() + 60
    while (queue := call(env, "GET", f"/{queued}")["queue"])["place"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert queue == {"place": 1, "reason": "Jobs run before it."}
    while not (output := call(env, "GET", f"/{made['id']}/logs")).endswith("go\n"):
        assert time.monotonic() < deadline, output
        time.sleep(0.1)
    assert f"cannot access '{tmp_path / 'home'}'" in output
    assert run(env, made["id"], "ls scripts; exit 4") == (b"run.sh\n", 4)
    with start(env, made["id"], "echo begun; sleep 4321") as program:
        assert b"data" in program.readline()
    while b"sleep\x004321" in run(env, made["id"], "cat /proc/[0-9]*/cmdline")[0]:  # it ends when its caller leaves
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(json.loads((Path(env["LLMARINER_HOME"]) / "platform.json").read_text())["pid"], signal.SIGKILL)
    assert llma(env, "up").returncode == 0
    ended = wait_for(env, made["id"], "failed")
    assert ended["error"]["code"] == "interrupted"
    wait_for(env, queued, "succeeded")
    assert call(env, "GET", f"/{queued}/logs?follow=true") == "done\n"
    assert call(env, "GET", f"/{made['id']}/logs") == output
