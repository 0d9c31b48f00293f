"""Terminal output: a redrawn table, a progress bar, and a status line that is removed.

Each command runs in a process of its own on a pseudo-terminal.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from .storage_cases import FILE, LOOKUP, RESULT, STORE_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import FakePlatform


class Terminal:
    """A command on a pseudo-terminal, and all it has written."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: str) -> None:
        self._master, slave = pty.openpty()
        size = {"COLUMNS": columns, "LINES": "30", "TERM": "xterm"}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**environment, **size}, start_new_session=True
        )
        os.close(slave)
        self.written = ""

    def wait_for(self, words: str, seconds: float = 20) -> None:
        """Until the words have been written."""
        until = time.monotonic() + seconds
        while words not in self.written:
            assert time.monotonic() < until, f"{words!r} did not appear in {self.written!r}"
            if not self._read():
                assert words in self.written, f"ended with {self.written!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """The exit code, with all output read."""
        while self._read():
            pass
        return self.process.wait(timeout=10)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.written += data.decode("utf-8", "replace")
        return bool(data)


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(platform: FakePlatform, program: list[str], home: Path) -> Iterator[Open]:
    """Run a command line on a terminal."""
    opened: list[Terminal] = []

    def run(*arguments: str, columns: str = "120") -> Terminal:
        environment = {**os.environ, "LLMARINER_BASE_URL": platform.url}
        opened.append(Terminal([*program, *arguments], environment, columns))
        return opened[-1]

    yield run
    for one in opened:
        one.close()


def status(phase: str, memory: int = 0) -> dict[str, object]:
    models = [{"id": "tiny", "phase": phase, "requests_running": 1, "memory_bytes": memory}]
    return {"cluster_statuses": [{"name": "here", "engine_statuses": [{"models": models}]}]}


def test_status_redraws_until_ctrl_c(terminal: Open, platform: FakePlatform) -> None:
    platform.respond("GET /inference/status", status("loading"), status("ready"))
    shown = terminal("status", "--interval", "0.2")
    shown.wait_for("loading")
    shown.wait_for("ready")
    shown.process.send_signal(signal.SIGINT)
    assert shown.end() == 130
    assert "Traceback" not in shown.written


def test_status_survives_server_errors_and_recovers(terminal: Open, platform: FakePlatform) -> None:
    platform.respond("GET /inference/status", status("loading"))
    shown = terminal("status", "--interval", "0.2")
    shown.wait_for("loading")
    platform.respond_error("GET /inference/status", 500, message="Restarting.")
    shown.wait_for("Still trying")
    platform.respond("GET /inference/status", status("ready"))
    shown.wait_for("ready")


def test_status_without_follow_is_shown_once(terminal: Open, platform: FakePlatform) -> None:
    platform.respond("GET /inference/status", status("ready", memory=1024**3))
    shown = terminal("status", "--no-watch")
    assert shown.end() == 0
    assert "1.0 GiB" in shown.written
    assert "\x1b[32mready" in shown.written


def test_a_pull_shows_a_progress_bar(terminal: Open, platform: FakePlatform) -> None:
    loading = {"id": "m", "loading_status": "LOADING", "loading_progress": 0.5, "loading_status_message": "[b]x"}
    platform.respond("GET /models/m", loading, loading, {**loading, "loading_status": "SUCCEEDED"})
    shown = terminal("models", "pull", "m")
    assert shown.end() == 0
    assert "50%" in shown.written
    assert "m: loading, [b]x" in shown.written
    assert "100%" in shown.written
    assert "m is loaded." in shown.written


def test_the_waiting_line_is_removed_when_text_starts(terminal: Open, platform: FakePlatform) -> None:
    text = {"choices": [{"delta": {"content": "Hi \x1b[31mthere"}}]}
    facts = {"phase": "loading", "progress": 0.5, "estimate_seconds": 3}
    chunks = [f": {json.dumps(facts)}\n\n".encode(), f"data: {json.dumps(text)}\n\n".encode(), b"data: [DONE]\n\n"]
    platform.respond_with("POST /chat/completions", chunks=chunks)
    shown = terminal("chat", "completions", "create", "--model", "m", "--role", "user", "--completion", "x")
    assert shown.end() == 0
    assert "\rwaiting for the model: loading, 50%, about 3 s left\x1b[K\r\x1b[KHi [31mthere\r\n" in shown.written


def test_a_narrow_terminal_wraps_long_ids_instead_of_truncating_them(terminal: Open, platform: FakePlatform) -> None:
    name = "organization/" + "x" * 150
    platform.respond("GET /models", {"data": [{"id": name}]})
    shown = terminal("models", "list", "--color", "never")
    assert shown.end() == 0
    pieces = [line.split()[0] for line in shown.written.splitlines()[1:] if line.split()]
    assert "".join(pieces) == name


def test_context_set_prompts_for_each_setting_and_echoes_no_key(terminal: Open, home: Path) -> None:
    shown = terminal("context", "set")
    for question, reply in (
        ("Endpoint", "http://127.0.0.1:1/v1"),
        ("API key", "sk-typed"),
        ("Organization", ""),
        ("Project", "p"),
    ):
        shown.wait_for(question)
        time.sleep(0.2)  # the prompt is written before echo is switched off
        shown.type(f"{reply}\n")
    assert shown.end() == 0
    assert "sk-typed" not in shown.written
    stored = (home / ".config/llmariner/config.yaml").read_text()
    assert sorted(stored.splitlines()) == ["api_key: sk-typed", "endpoint: http://127.0.0.1:1/v1", "project: p"]


def test_a_search_shows_passages_as_paragraphs(terminal: Open, platform: FakePlatform) -> None:
    platform.respond("GET /vector_stores", LOOKUP["GET /vector_stores"])
    long = {**RESULT, "filename": "\x1b[2Jb.md", "content": [{"type": "text", "text": "It takes weeks. " * 40}]}
    page = {"object": "vector_store.search_results.page", "search_query": ["leave"], "data": [RESULT, long]}
    platform.respond("POST /vector_stores/vs_1/search", {**page, "has_more": False})
    shown = terminal("--color", "never", "storage", "vector-stores", "search", "handbook", "leave")
    assert shown.end() == 0
    lines = [line.rstrip() for line in shown.written.splitlines()]
    assert lines[:4] == [
        "0.877   Ärger.pdf, page 17   similarity 1, words 3",
        "        It takes three weeks.",
        "",
        "0.877   [2Jb.md, page 17   similarity 1, words 3",
    ]
    text = [line for line in lines[4:] if line]
    assert len(text) == 3, "300 characters of 112 columns"
    assert all(line.startswith(" " * 8) and len(line) <= 120 for line in text)


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_progress_of_a_long_name_shows_its_numbers(
    columns: str, terminal: Open, platform: FakePlatform, home: Path
) -> None:
    path = home / f"{'報告書' * 20}.pdf"
    path.write_bytes(b"x" * 2048)
    platform.respond("POST /files", FILE)
    shown = terminal(
        "--color", "never", "storage", "files", "upload", str(path), "--purpose", "assistants", columns=columns
    )
    assert shown.end() == 0
    assert re.search(r"報告書[^\n]{0,20}…[^\n]*2\.0/2\.0 KiB", shown.written), shown.written


def test_the_table_of_files_on_their_way_has_a_line_for_each(
    terminal: Open, platform: FakePlatform, home: Path
) -> None:
    folder = home / ("folder" * 12)
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.pdf").write_text(name)
    platform.respond("GET /vector_stores", LOOKUP["GET /vector_stores"])
    platform.respond("POST /files", FILE)
    error = {"code": "invalid_file", "message": "It is encrypted, " * 12}
    platform.respond("POST /vector_stores/vs_1/files", {**STORE_FILE, "status": "failed", "last_error": error})
    shown = terminal("--color", "never", "storage", "vector-stores", "add-files", "handbook", str(folder))
    assert shown.end() != 0
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.written).rpartition("files are through")[0]
    frame = [line.rstrip() for line in written.splitlines()]
    title = max(number for number, line in enumerate(frame) if "FILE" in line)
    assert frame[title].split() == ["FILE", "STEP", "CHUNKS", "ERROR"]
    rows = frame[title + 1 : title + 3]
    assert [row.partition(" ")[0][-5:] for row in rows] == ["a.pdf", "b.pdf"]
    assert all(row.startswith("…") and len(row) <= 120 for row in rows)
