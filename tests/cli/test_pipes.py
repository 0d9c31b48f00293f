"""`llma` in shell pipelines, and with outputs that are closed, full or of another encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmariner.cli.support.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from cli.conftest import FakePlatform

    Shell: TypeAlias = Callable[..., subprocess.CompletedProcess[bytes]]

NAME = "modèle-日本"
MANY = 2000  # in every form more than a pipe holds, and its reader takes at once


@pytest.fixture
def shell(platform: FakePlatform, tmp_path: Path) -> Shell:
    """Run a command line in which `llma` is the program; variables of its environment by name."""
    models = [{"id": f"{NAME}-{number}", "object": "model", "owned_by": "x", "created": 1} for number in range(MANY)]
    platform.respond("GET /models", {"object": "list", "data": models, "has_more": False})
    platform.respond_error("GET /users", 404, message=f"Kein {NAME}.")
    said = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LLMARINER_API_KEY": "sk-test",
        "LLMARINER_BASE_URL": platform.url,
    }

    def run(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        command = ["bash", "-o", "pipefail", "-c", line]
        done = subprocess.run(command, env={**said, **environment}, capture_output=True, timeout=60, check=False)
        assert b"Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_a_closed_pipe_is_not_an_api_error(output: str, shell: Shell) -> None:
    done = shell(f"llma models list -o {output} | head -1")
    assert (done.returncode, done.stderr, done.stdout.count(b"\n")) == (ExitCode.PIPE_CLOSED, b"", 1)


@pytest.mark.parametrize(
    "line", ["llma models list", "llma models list -o json", "llma models list -o yaml", "llma --help"]
)
def test_a_closed_stdout_is_ignored(line: str, shell: Shell) -> None:
    done = shell(f"{line} >&-")
    assert (done.returncode, done.stderr) == (ExitCode.OK, b"")
    assert shell("llma admin users list 2>&- <&-").returncode == ExitCode.NOT_FOUND


@pytest.mark.parametrize("line", ["llma models list", "llma models list -o json", "llma version"])
def test_a_full_disk_is_reported(line: str, shell: Shell) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = shell(f"{line} > /dev/full")
    assert done.returncode == ExitCode.OUTPUT_ERROR
    assert b"No space left" in done.stderr


ENCODINGS = {
    "the C locale": {"LC_ALL": "C"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "a Windows code page": {"PYTHONIOENCODING": "cp1252"},
}


@pytest.mark.parametrize("environment", ENCODINGS.values(), ids=ENCODINGS)
def test_a_terminal_of_any_encoding_shows_any_text(environment: dict[str, str], shell: Shell) -> None:
    table = shell("llma models list", **environment)
    assert (table.returncode, table.stdout.count(b"\n")) == (ExitCode.OK, MANY + 1)
    shown = shell("llma models list -o json", **environment)
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    assert json.loads(shown.stdout.decode(encoding))["data"][0]["id"] == f"{NAME}-0"
    assert shell("llma admin users list", **environment).returncode == ExitCode.NOT_FOUND
