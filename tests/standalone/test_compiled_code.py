"""The compiled token path of the standalone mode: which folder a process gets, and what `llma doctor` says of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from llmariner import compiled
from llmariner.compiled import MANIFEST, MODULES, unusable
from llmariner.compiled import build as building
from llmariner.compiled.build import build, folder_of, missing, seal
from llmariner.standalone import compiled_code
from llmariner.standalone.compiled_code import compile_in_background, compile_into, with_compiled_code

PROGRAM = """
import json
from llmariner.compiled import MODULES, is_active
import importlib
print(json.dumps([is_active(), [m for m in MODULES if importlib.import_module(m).__file__.endswith('.py')]]))
"""


def test_a_process_gets_the_folder_of_these_sources_once_it_exists(tmp_path: Path) -> None:
    assert with_compiled_code({"A": "b"}, tmp_path) == {"A": "b"}
    made(folder_of(tmp_path))
    assert with_compiled_code({"A": "b"}, tmp_path) == {"A": "b", "LLMARINER_COMPILED": str(folder_of(tmp_path))}


def test_a_setting_of_the_user_stays(tmp_path: Path) -> None:
    made(folder_of(tmp_path))
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

    # The sources run instead of a library that is too short, with which the process would end by SIGBUS.
    library = next(folder.glob("*.so"))
    os.truncate(library, library.stat().st_size // 2)
    assert loaded({"LLMARINER_COMPILED": str(folder)}) == [False, list(MODULES)]


@pytest.mark.timeout(600)
def test_off_also_turns_off_machine_code_beside_the_sources(tmp_path: Path) -> None:
    package = tmp_path / "llmariner"
    shutil.copytree(Path(compiled.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    # No library: the import of a compiled module would fail.
    for module in MODULES:
        source = tmp_path / f"{module.replace('.', '/')}.py"
        source.with_name(f"{source.stem}{EXTENSION_SUFFIXES[0]}").write_bytes(b"no machine code")
    assert loaded({"LLMARINER_COMPILED": "off", "PYTHONPATH": str(tmp_path)}) == [False, list(MODULES)]


def test_sources_of_any_module_have_a_folder_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code checks the types of what it imports: a field that becomes a float would be a TypeError."""
    package = tmp_path / "llmariner"
    (package / "platform").mkdir(parents=True)
    (package / "platform/port.py").write_text("capacity: int")
    monkeypatch.setattr(building, "_PACKAGE", package)
    before = folder_of(tmp_path)
    (package / "platform/port.py").write_text("capacity: float")
    assert folder_of(tmp_path) != before


def made(folder: Path) -> Path:
    """A compiled folder with one file that is no machine code."""
    (folder / "llmariner").mkdir(parents=True)
    (folder / "llmariner/server.so").write_bytes(b"code")
    seal(folder)
    return folder


def test_a_folder_of_other_sources_is_not_used(tmp_path: Path) -> None:
    folder = made(tmp_path / "compiled")
    assert unusable(folder) == ""
    manifest = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text("0" + manifest)
    assert "other sources" in unusable(folder)
    (folder / MANIFEST).unlink()
    assert "incomplete" in unusable(folder)


@pytest.mark.parametrize("change", ["shorter", "missing", "unlisted"])
def test_an_incomplete_folder_is_not_used(tmp_path: Path, change: str) -> None:
    file = made(tmp_path / "compiled") / "llmariner/server.so"
    if change == "shorter":
        os.truncate(file, 1)
    elif change == "unlisted":
        manifest = tmp_path / "compiled" / MANIFEST
        manifest.write_text(manifest.read_text().partition("\n")[0] + "\n")
    else:
        file.unlink()
    assert "incomplete" in unusable(tmp_path / "compiled")


@pytest.mark.parametrize("path", ["", "llmariner", "llmariner/server.so", MANIFEST])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, path: str) -> None:
    folder = made(tmp_path / "compiled")
    (folder / path).chmod(0o775)
    assert "other users can write to" in unusable(folder)


def test_a_folder_that_others_can_replace_is_not_used(tmp_path: Path) -> None:
    folder = made(tmp_path / "cache/compiled")
    folder.parent.chmod(0o777)
    assert "other users can replace" in unusable(folder)
    folder.parent.chmod(0o1777)
    assert unusable(folder) == ""


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "compiled")
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert "other users" in unusable(folder)
        return
    os.chown(folder / "llmariner/server.so", 12345, 12345)
    assert "other users can write to" in unusable(folder)


def test_a_damaged_folder_is_made_again_and_old_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_code, "build", made)
    for number in range(6):
        old = tmp_path / f"compiled-{number}"
        old.mkdir()
        os.utime(old, (number, number))
    left, current = tmp_path / ".compiling-left", tmp_path / ".compiling-now"
    left.mkdir()
    current.mkdir()
    os.utime(left, (1, 1))
    os.utime(current, (time.time(), time.time()))
    folder = folder_of(tmp_path)
    folder.mkdir()

    compile_into(tmp_path)
    assert unusable(folder) == ""
    kept = {"compiled-3", "compiled-4", "compiled-5", folder.name}
    assert {path.name for path in tmp_path.iterdir()} == {"compiled.lock", current.name, *kept}


def test_what_was_compiled_before_the_clock_was_set_back_does_not_remove_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_code, "build", made)
    for number in range(4):
        old = tmp_path / f"compiled-{number}"
        old.mkdir()
        os.utime(old, (later := time.time() + 86400 + number, later))
    compile_into(tmp_path)
    assert unusable(folder_of(tmp_path)) == ""
    assert not (tmp_path / "compiled-0").exists()


def test_two_processes_do_not_compile_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_code, "build", made)
    with (tmp_path / "compiled.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compile_into(tmp_path)
        assert not folder_of(tmp_path).exists()
    compile_into(tmp_path)
    assert folder_of(tmp_path).exists()


def loaded(env: dict[str, str]) -> object:
    """Whether a process with that environment runs compiled modules, and which modules it interprets."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
