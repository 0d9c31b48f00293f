"""The compiled token path of the standalone mode: which folder a process gets, and what `llma doctor` says of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmariner.compiled import MODULES
from llmariner.compiled.build import build, folder_of, missing
from llmariner.standalone.compiled_code import compile_in_background, with_compiled_code

PROGRAM = """
import json
from llmariner.compiled import MODULES, is_active
import importlib
print(json.dumps([is_active(), [m for m in MODULES if importlib.import_module(m).__file__.endswith('.py')]]))
"""


def test_a_process_gets_the_folder_of_these_sources_once_it_exists(tmp_path: Path) -> None:
    assert with_compiled_code({"A": "b"}, tmp_path) == {"A": "b"}
    folder_of(tmp_path).mkdir()
    assert with_compiled_code({"A": "b"}, tmp_path) == {"A": "b", "LLMARINER_COMPILED": str(folder_of(tmp_path))}


def test_a_setting_of_the_user_stays(tmp_path: Path) -> None:
    folder_of(tmp_path).mkdir()
    assert with_compiled_code({"LLMARINER_COMPILED": "off"}, tmp_path) == {"LLMARINER_COMPILED": "off"}


def test_nothing_is_compiled_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMARINER_COMPILED", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    compile_in_background(tmp_path / "cache", tmp_path / "compile.log")
    assert missing() == "a C compiler (gcc)"
    assert not (tmp_path / "compile.log").exists()


@pytest.mark.timeout(600)
def test_every_module_is_compiled_and_used(tmp_path: Path) -> None:
    if lacking := missing():
        pytest.skip(f"this machine lacks {lacking}")
    folder = tmp_path / "compiled"
    build(folder)

    assert loaded({"LLMARINER_COMPILED": str(folder)}) == [True, []]
    assert loaded({"LLMARINER_COMPILED": "off"}) == [False, list(MODULES)]
    assert [path.name for path in tmp_path.iterdir()] == ["compiled"]


def loaded(env: dict[str, str]) -> object:
    """Whether a process with that environment runs compiled modules, and which modules it interprets."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
