"""The parser process: its limits, its environment, and what its death means."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError, DocumentErrorCode
from llmariner.documents.limits import ParserLimits
from llmariner.documents.parser import extract

from .conftest import LIMITS, Extract, Fail
from .pdfs import pdf

# Seconds of work for the reader of PDF: it can do about ten of these pages in a second.
SLOW = pdf(["\n".join(["some words in a line"] * 3000)] * 200)
# The same without output: such a process does not notice that nobody reads it.
SILENT = pdf(["\n".join(["          "] * 3000)] * 200)


def test_processor_time_is_limited(fail: Fail) -> None:
    error = fail(SLOW, "x.pdf", limits=ParserLimits(cpu_seconds=1, seconds=120))
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert "more than 1 seconds of processor time" in error.message


def test_memory_is_limited(fail: Fail) -> None:
    data = b"<html><body><p>" + b"word " * 12_000_000
    error = fail(data, "x.html", limits=ParserLimits(memory_bytes=150 * 2**20, seconds=120))
    assert error.code == DocumentErrorCode.INVALID_FILE
    assert "more than 150 MiB of memory" in error.message


def test_a_process_that_had_no_processor_time_is_no_fault_of_the_file(fail: Fail) -> None:
    began = time.monotonic()
    error = fail(SLOW, "x.pdf", limits=ParserLimits(seconds=0.2, cpu_seconds=60))
    assert time.monotonic() - began < 60
    assert error.code == DocumentErrorCode.SERVER_ERROR


def test_a_process_that_somebody_kills_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(SLOW)
    outcomes: list[DocumentError] = []

    def parse() -> None:
        with pytest.raises(DocumentError) as raised:
            extract(path, "x.pdf", limits=LIMITS)
        outcomes.append(raised.value)

    thread = threading.Thread(target=parse)
    thread.start()
    while not (children := _children()):
        time.sleep(0.01)
    for child in children:
        os.kill(child, 9)
    thread.join()
    assert [error.code for error in outcomes] == [DocumentErrorCode.SERVER_ERROR]


def _children() -> list[int]:
    """The parser processes of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"\nPPid:\t{os.getpid()}\n" in (entry / "status").read_text():
                found += [int(entry.name)] if b"llmariner.documents.child" in (entry / "cmdline").read_bytes() else []
        except OSError:
            continue
    return found


def test_nothing_is_left_of_a_process(fail: Fail) -> None:
    fail(SLOW, "x.pdf", limits=ParserLimits(seconds=0.2))
    assert _children() == []


def test_the_process_dies_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(SILENT)
    script = (
        "import sys; from pathlib import Path; from llmariner.documents.parser import extract;"
        "from llmariner.documents.limits import ParserLimits; extract(Path(sys.argv[1]), 'x.pdf', limits=ParserLimits())"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        child = _wait_for_child(parent.pid)
        assert Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n"
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/cmdline").exists() and Path(f"/proc/{child}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the parser process outlives its parent"
        time.sleep(0.02)


def _wait_for_child(parent: int) -> int:
    """The parser process of another process, once it parses: by then it has asked for its end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for child in children:
            if _has_limits(int(child)):
                return int(child)
        time.sleep(0.01)
    raise AssertionError("no parser process started")


def _has_limits(child: int) -> bool:
    lines = Path(f"/proc/{child}/limits").read_text().split("\n")
    return any(line.split()[3:5] == ["0", "0"] for line in lines if line.startswith("Max file size"))


def test_the_process_has_no_secrets_in_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMARINER_PEPPER", "secret")
    path = tmp_path / "object"
    path.write_bytes(SLOW)
    thread = threading.Thread(target=_ignore_error, args=[path])
    thread.start()
    environment = b""
    while not environment:
        for child in _children():
            environment = Path(f"/proc/{child}/environ").read_bytes()
        time.sleep(0.01)
    thread.join()
    assert b"PEPPER" not in environment


def _ignore_error(path: Path) -> None:
    with pytest.raises(DocumentError):
        extract(path, "x.pdf", limits=ParserLimits(seconds=3))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "a\0b", "x" * 100_000, "-rf", "💥.💥", "a.\n", "..\\..\\x.md", "\ud800.txt", "$(x).md"]
)
def test_hostile_names(read: Extract, name: str) -> None:
    assert read(b"text", name, f"{name}; charset={name}") == [Block(BlockKind.PARAGRAPH, "text")]


def test_size_is_limited(fail: Fail) -> None:
    assert "1 MiB are allowed" in fail(b"x" * (2**20 + 1), "x.txt", limits=ParserLimits(file_bytes=2**20)).message


def test_a_library_that_is_missing_is_no_fault_of_the_file(
    fail: Fail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pypdf.py").write_text("raise ImportError('broken installation')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert fail(pdf(["x"]), "x.pdf").code == DocumentErrorCode.SERVER_ERROR


def test_what_a_library_prints_is_no_output(read: Extract, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "csv.py").write_text(
        "import os; print('[1, 2]', flush=True); os.write(1, b'junk\\n')\n"
        "Error = ValueError\ndef field_size_limit(n): pass\ndef reader(lines, delimiter): return [['a']]"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert read(b"a", "x.csv") == [Block(BlockKind.TABLE, "| a |\n| --- |")]
