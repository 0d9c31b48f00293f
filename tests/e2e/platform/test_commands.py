"""The commands that look after the platform of this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from llmariner.platform.serving.local_processes.engine import log_name

from .standalone_platform import CHAT_MODEL, EMBEDDING_MODEL

if TYPE_CHECKING:
    from .standalone_platform import Platform

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


def test_a_second_up_reports_the_running_platform_and_shows_no_key(platform: Platform) -> None:
    pid = platform.pid
    done = platform.llma("up")
    assert done.returncode == 0
    assert f"runs already at http://127.0.0.1:{platform.port}" in done.stdout
    assert platform.api_key not in done.stdout
    assert platform.pid == pid


def test_the_home_folder_is_private(platform: Platform) -> None:
    for name in ("admin.key", "pepper", "service-secret"):
        assert (platform.home / name).stat().st_mode & 0o077 == 0
    assert platform.home.stat().st_mode & 0o077 == 0


def test_status_shows_each_model_and_its_phase(platform: Platform) -> None:
    platform.chat("Hello", max_tokens=1)
    done = platform.llma("status", "-o", "json")
    assert done.returncode == 0, done.stderr
    text = json.dumps(json.loads(done.stdout))
    assert CHAT_MODEL in text
    assert EMBEDDING_MODEL in text
    assert '"phase": "ready"' in text


def test_doctor_passes_every_check(platform: Platform) -> None:
    done = platform.llma("doctor", "-o", "json")
    checks = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    expected = {"engine environment", f"model {CHAT_MODEL}", "secrets", "platform", "memory", f"answer of {CHAT_MODEL}"}
    assert expected <= checks.keys()
    ill = {name: check["detail"] for name, check in checks.items() if not check["ok"]}
    # Other programs of this machine may hold its memory and its disk.
    assert ill.keys() <= {"memory", "disk", "home disk"}, ill
    assert done.returncode == (5 if ill else 0)


def test_logs_show_the_platform_and_each_engine(platform: Platform) -> None:
    platform.chat("Hello", max_tokens=1)
    done = platform.llma("logs", CHAT_MODEL, "-n", "500")
    assert done.returncode == 0
    assert "vLLM" in done.stdout
    assert platform.llma("logs").returncode == 0
    missing = platform.llma("logs", "no-such-model")
    assert missing.returncode != 0
    assert log_name(CHAT_MODEL) in missing.stdout + missing.stderr
