"""A missing or invalid setting fails a function's start with a message, and not a request with a 500."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmariner.boot import load
from llmariner.context import Context

from .declared_routes import FUNCTIONS
from .installation import SERVICE_SECRET
from .processes import CHECKOUT, boot_command, framework_command

CONSUMERS = sorted(path.parent.name for path in (CHECKOUT / "eventing").glob("*/trigger.yaml"))
COMPLETE = {
    "LLMARINER_PEPPER": "p" * 32,
    "LLMARINER_SERVICE_SECRET": SERVICE_SECRET,
    "LLMARINER_CONTROL_URL": "http://internal-gateway",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_not_created_without_its_settings(name: str) -> None:
    application = load(CHECKOUT / "functions" / name)
    application.use_context(Context({}))
    with pytest.raises(ValueError, match=r"^LLMARINER_\w+"):
        application.prepare()


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_consumer_is_not_created_without_its_settings(name: str) -> None:
    application = load(CHECKOUT / "eventing" / name)
    application.use_context(Context({}))
    with pytest.raises(ValueError, match=r"^LLMARINER_\w+"):
        application.prepare()


@pytest.mark.parametrize("missing", ["LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET"])
def test_a_token_path_function_reports_missing_settings_at_its_start(missing: str, tmp_path: Path) -> None:
    said = {name: value for name, value in COMPLETE.items() if name != missing}
    command = boot_command(CHECKOUT / "functions/chat_completions")
    environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "1", **said}
    ended = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert missing in ended.stderr.decode().splitlines()[-1]


DATABASE = {"LLMARINER_DATABASE_URL": "sqlite:///nowhere.db"}


@pytest.mark.parametrize("way", [boot_command, framework_command])
@pytest.mark.parametrize(
    ("folder", "said", "missing"),
    [
        # As a function with a database is set, on the token path: everything but where the control function is.
        ("functions/chat_completions", {**COMPLETE, **DATABASE}, "LLMARINER_CONTROL_URL"),
        ("functions/models", {**COMPLETE}, "LLMARINER_DATABASE_URL"),
        ("functions/models", {**COMPLETE, **DATABASE, "LLMARINER_CORS_ORIGINS": "x"}, "LLMARINER_CORS_ORIGINS"),
        ("eventing/sweep", {**COMPLETE}, "LLMARINER_DATABASE_URL"),
    ],
)
def test_every_server_reports_missing_settings_at_the_start(
    folder: str, said: dict[str, str], missing: str, way: Any
) -> None:
    set_to = {name: value for name, value in said.items() if name != missing or missing == "LLMARINER_CORS_ORIGINS"}
    environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "1", **set_to}
    command = way(CHECKOUT / folder)
    ended = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert missing in ended.stderr.decode().splitlines()[-1]


@pytest.mark.parametrize("way", [boot_command, framework_command])
def test_a_folder_without_a_function_does_not_start(way: object, tmp_path: Path) -> None:
    command = boot_command(tmp_path) if way is boot_command else framework_command(tmp_path)
    environment = {"PATH": os.environ["PATH"], "HOST": "127.0.0.1", "PORT": "1"}
    ended = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "main.py" in ended.stderr.decode()
