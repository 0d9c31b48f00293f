"""The program that starts JupyterLab in a notebook starts it whatever people left where its environment is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmariner.platform.notebooks import start_program

JUPYTER = [sys.executable, "-I", "-m", "jupyterlab", "--one"]


class Started(Exception):
    """Another program took the place of this one."""


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def execv(path: str, words: list[str]) -> None:
        assert (path, words) == (sys.executable, JUPYTER)
        raise Started

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(start_program, "PACKAGES", str(tmp_path / "packages"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    return tmp_path / "packages"


def _start() -> None:
    with pytest.raises(Started):
        start_program.main(JUPYTER[4:])


def test_an_environment_of_an_earlier_image_is_brought_to_this_python(place: Path) -> None:
    (place / "bin").mkdir(parents=True)
    (place / "bin/python").write_text("no program")
    (place / "bin/python3").symlink_to("/nothing/python3.10")
    (place / "bin/python-of-a-package").write_text("kept")
    (place / "bin/pip").write_text("")  # a start that was killed
    notes = place.with_name("notes")
    notes.write_text("mine")
    kernel = place / "jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.symlink_to(notes)
    for name in ("pyvenv.cfg", "bin/activate"):
        os.mkfifo(place / name)
    (place / "earlier.py").write_text("VALUE = 7")
    _start()
    _start()
    python = json.loads(kernel.read_text())["argv"][0]
    script = "import earlier, importlib.util as i, sys; print(earlier.VALUE, bool(i.find_spec('pytest')), sys.prefix)"
    printed = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["7", "True", str(place)]
    assert os.environ["PATH"].startswith(f"{place}/bin:")
    assert ((place / "bin/python-of-a-package").read_text(), notes.read_text()) == ("kept", "mine")
    assert (place / "bin/pip").read_text().startswith("#!/bin/sh")


@pytest.mark.parametrize("kind", ["file", "link", "no folder of programs", "folder as Python"])
def test_without_an_environment_the_kernel_of_the_image_runs(
    place: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "file":
        place.write_text("")
    elif kind == "link":
        place.symlink_to("/tmp")
    elif kind == "folder as Python":
        (place / "bin/python").mkdir(parents=True)
    else:
        place.mkdir()
        (place / "bin").write_text("")
    _start()
    assert "Packages can't be installed: " in capsys.readouterr().err
    assert os.environ["PATH"] == "/usr/bin"
    assert "JUPYTER_PATH" not in os.environ
