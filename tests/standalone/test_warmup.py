"""The first answers of engines on this machine in `llma up` and `llma doctor`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.serving.engine_plugins import expected_answer
from llmariner.platform.serving.engine_plugins.expected_answer import ExpectedText
from llmariner.standalone.engine.environment import EngineEnvironment
from llmariner.standalone.engine.packages import PACKAGED, PackagedModel, install_model
from llmariner.standalone.warmup import answer_mismatch, warm_up

from .script_environment import script_environment

CHAT, EMBEDDINGS = PACKAGED
assert isinstance(CHAT.expected, ExpectedText)
ANSWER = CHAT.expected.starts_with
ALIKE, UNLIKE = [[1.0, 0.1], [1.0, 0.2], [-0.1, 1.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]


class Scripted(BaseHTTPRequestHandler):
    """A platform whose models give scripted answers."""

    says: str
    vectors: list[list[float]]
    status = 200
    asked: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(self.path)
        choices = [{"message": {"role": "assistant", "content": self.says}}]
        answer: dict[str, Any] = {"choices": choices, "data": [{"embedding": each} for each in self.vectors]}
        raw = json.dumps(answer).encode()
        self.send_response(self.status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def scripted() -> Iterator[tuple[type[Scripted], str]]:
    handler = type("Handler", (Scripted,), {"says": ANSWER, "vectors": ALIKE, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def engines(tmp_path: Path) -> EngineEnvironment:
    return script_environment(tmp_path)


def test_models_with_the_expected_answers_are_checked_once(
    scripted: tuple[type[Scripted], str], engines: EngineEnvironment
) -> None:
    handler, url = scripted
    assert warm_up(url, "key", engines) == []
    first = len(handler.asked)
    assert first == 4
    assert warm_up(url, "key", engines) == []
    assert len(handler.asked) == first


def test_a_wrong_answer_is_reported_and_checked_again_next_time(
    scripted: tuple[type[Scripted], str], engines: EngineEnvironment
) -> None:
    handler, url = scripted
    handler.says, handler.vectors = "L'Étoile, la Marseillaise, la femme", UNLIKE
    for _ in range(2):
        chat, vectors = warm_up(url, "key", engines)
        assert chat.startswith(f"{CHAT.id}: ")
        assert "la Marseillaise" in chat
        assert ANSWER in chat
        assert vectors.startswith(f"{EMBEDDINGS.id}: ")
    handler.says, handler.vectors = ANSWER, ALIKE
    assert warm_up(url, "key", engines) == []


def test_a_failed_check_is_reported_with_the_engines_message(scripted: tuple[type[Scripted], str]) -> None:
    handler, url = scripted
    handler.status = 503
    with pytest.raises(OSError, match=r"answered 503.*choices"):
        answer_mismatch(url, "key", CHAT, seconds=20)


@pytest.mark.parametrize("model", PACKAGED)
def test_the_expected_answer_is_stored_beside_the_weights(
    model: PackagedModel, engines: EngineEnvironment, tmp_path: Path
) -> None:
    model.folder(tmp_path).mkdir(parents=True)
    for found in (None, "of another release", None):
        file = model.folder(tmp_path) / expected_answer.FILE
        if found is not None:
            file.write_text(found)
        before = file.stat().st_mtime_ns if file.exists() else 0
        assert install_model(model, tmp_path) == model.folder(tmp_path)
        assert expected_answer.parse(file.read_bytes()) == model.expected
        assert file.stat().st_mode & 0o777 == 0o644, "an engine may be another user"
        assert (file.stat().st_mtime_ns == before) == (before != 0 and found is None)
        assert list(model.folder(tmp_path).iterdir()) == [file]


def test_no_proxy_is_used_for_engines(scripted: tuple[type[Scripted], str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, url = scripted
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert answer_mismatch(url, "key", CHAT, seconds=20) is None
