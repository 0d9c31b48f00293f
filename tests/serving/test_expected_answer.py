"""The plugin that checks an engine's first answer, in front of an application with a scripted response."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmariner.platform.serving.engine_plugins import expected_answer
from llmariner.platform.serving.engine_plugins.expected_answer import FILE, ExpectedAnswer, parse
from llmariner.standalone.engine.packages import PACKAGED

CHAT, EMBEDDINGS = (asdict(model.expected) for model in PACKAGED)
USED = {"prompt_tokens": 33, "completion_tokens": 8}
NOTHING = {"prompt_tokens": 0, "completion_tokens": 0}


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"content": text}}], "usage": {**USED, "total_tokens": 41}}


def vectors(*rows: list[float]) -> dict[str, Any]:
    return {"data": [{"embedding": row} for row in rows], "usage": {"prompt_tokens": 20, "total_tokens": 20}}


@dataclass
class Application:
    """What stands for vLLM's: it answers a question with `answer`, once it may."""

    answer: Any
    status: int = 200
    asked: list[tuple[str, dict[str, Any], dict[bytes, bytes]]] = field(default_factory=list)
    may: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            return
        status, raw = 200, b""
        if scope["path"] != "/health":
            body = json.loads((await receive())["body"])
            self.asked.append((scope["path"], body, dict(scope["headers"])))
            try:
                await self.may.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            status = self.status
            raw = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": raw[:5], "more_body": True})
        await send({"type": "http.response.body", "body": raw[5:]})


@asynccontextmanager
async def served(app: Application, folder: Path) -> AsyncIterator[Callable[[str], Any]]:
    """A server's start and end; between them `get(path)`."""
    plugin, down = ExpectedAnswer(app), asyncio.Event()
    up, words = asyncio.Event(), [{"type": "lifespan.startup"}]

    async def receive() -> Any:
        if not words:
            await down.wait()
            return {"type": "lifespan.shutdown"}
        return words.pop()

    async def send(message: Any) -> None:
        up.set()

    of_vllm = SimpleNamespace(state=SimpleNamespace(args=SimpleNamespace(model=str(folder))))
    living = asyncio.create_task(plugin({"type": "lifespan", "app": of_vllm}, receive, send))
    await up.wait()

    async def get(path: str) -> Any:
        messages: list[Any] = []

        async def sent(message: Any) -> None:
            messages.append(message)

        await plugin({"type": "http", "path": path, "method": "GET", "headers": []}, receive, sent)
        return json.loads(b"".join(each.get("body", b"") for each in messages[1:]) or b"null")

    try:
        yield get
    finally:
        down.set()
        await living


async def reported(get: Callable[[str], Any]) -> dict[str, Any]:
    """What came of the question, as soon as something did."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if (found := await get("/llmariner/answer"))["answer"] != "pending":
            return dict(found)
        await asyncio.sleep(0.005)
    raise AssertionError("it is asked on and on")


def outcome(expected: Any, answer: Any, folder: Path, status: int = 200) -> tuple[dict[str, Any], Application]:
    """The plugin's report for a response of the engine."""
    if expected is not None:
        (folder / FILE).write_text(expected if isinstance(expected, str) else json.dumps(expected))

    async def run() -> tuple[dict[str, Any], Application]:
        app = Application(answer, status)
        app.may.set()
        async with served(app, folder) as get:
            return await reported(get), app

    return asyncio.run(run())


def test_an_answer_with_the_expected_beginning_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, app = outcome(CHAT, said(f"{CHAT['starts_with']} It"), tmp_path)
    assert found == {"answer": "as_expected", "reason": "", "usage": USED}
    ((path, body, headers),) = app.asked
    assert path == "/v1/chat/completions"
    salt = body.pop("cache_salt")
    messages = [{"role": "user", "content": CHAT["question"]}]
    assert body == {"messages": messages, "temperature": 0, "max_tokens": CHAT["max_tokens"]}
    assert len(salt) == 32
    # Unlike the ids of clients' requests: it is charged to nobody.
    assert headers[b"x-request-id"] == b"expected-answer"
    assert capsys.readouterr().err == "expected answer: as expected\n"


def test_a_different_answer_is_one_log_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = outcome(CHAT, said("L'Étoile,\nla Marseillaise " * 100), tmp_path)
    assert (found["answer"], found["usage"]) == ("differs", USED)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("expected answer: differs: this processor (")
    for word in (CHAT["question"], "la Marseillaise", CHAT["starts_with"], "see docs/install-cluster.md"):
        assert word in line
    assert len(line) < 800


def test_the_expected_answer_is_a_prefix(tmp_path: Path) -> None:
    found, _ = outcome(CHAT, said(f"I believe that {CHAT['starts_with']}"), tmp_path)
    assert found["answer"] == "differs"


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        (([1.0, 0.1], [1.0, 0.2], [-0.1, 1.0]), "as_expected"),
        (([1.0, 0.0], [1.0, 0.0], [1.0, 0.0]), "differs"),
        (([1.0, 0.0], [0.0, 1.0], [0.0, 1.0]), "differs"),
        (([0.0, 0.0], [0.0, 0.0], [0.0, 0.0]), "differs"),
        (([float("nan")], [1.0], [1.0]), "differs"),
    ],
)
def test_vectors_are_compared_by_similarity(rows: tuple[list[float], ...], answer: str, tmp_path: Path) -> None:
    found, app = outcome(EMBEDDINGS, vectors(*rows), tmp_path)
    assert (found["answer"], found["usage"]) == (answer, {"prompt_tokens": 20, "completion_tokens": 0})
    assert app.asked[0][0] == "/v1/embeddings"


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", {"choices": []}, {"choices": [{"message": None}]}, b"\xff", b"[" * 9999]
)
def test_an_unusable_response_counts_as_not_asked(answer: Any, tmp_path: Path) -> None:
    found, _ = outcome(CHAT, answer, tmp_path)
    assert found["answer"] == "not_asked"
    assert found["reason"]


def test_a_rejected_question_counts_as_not_asked(tmp_path: Path) -> None:
    found, _ = outcome(CHAT, {"error": {}}, tmp_path, status=400)
    assert found == {
        "answer": "not_asked",
        "reason": "the engine refuses the question with status 400",
        "usage": NOTHING,
    }


def test_without_a_file_there_is_no_check(tmp_path: Path) -> None:
    found, app = outcome(None, said(""), tmp_path)
    assert found == {"answer": "not_asked", "reason": f"there is no {FILE} beside the weights", "usage": NOTHING}
    assert app.asked == []


@pytest.mark.parametrize(
    "expected",
    [
        "no JSON",
        "[" * 9999,
        "[]",
        "{}",
        "9" * 5000,
        {**CHAT, "max_tokens": 65},
        {**CHAT, "max_tokens": 0},
        {**CHAT, "max_tokens": -1},
        {**CHAT, "max_tokens": True},
        {**CHAT, "max_tokens": 1e9},
        {**CHAT, "max_tokens": None},
        {**CHAT, "question": "x" * 1001},
        {**CHAT, "question": ["x"]},
        {**CHAT, "starts_with": ""},
        {**EMBEDDINGS, "like": ["a"]},
        {**EMBEDDINGS, "like": ["a", 5]},
        {**EMBEDDINGS, "like": ["a"] * 1000},
        {**EMBEDDINGS, "unlike": None},
        {**EMBEDDINGS, "like_above": float("nan")},
        {**EMBEDDINGS, "unlike_below": "0.3"},
        {**CHAT, "comment": "x" * 20_000},
    ],
)
def test_weights_configure_short_answers_only(expected: Any, tmp_path: Path) -> None:
    found, app = outcome(expected, said(CHAT["starts_with"]), tmp_path)
    assert found["answer"] == "not_asked"
    assert found["reason"].startswith(f"{FILE}: ")
    assert app.asked == []


def test_other_fields_of_the_file_do_not_reach_the_engine(tmp_path: Path) -> None:
    _, app = outcome({**CHAT, "n": 100, "messages": [], "min_tokens": 4000}, said(""), tmp_path)
    assert app.asked[0][1].keys() == {"messages", "temperature", "max_tokens", "cache_salt"}


def test_the_content_of_a_linked_file_is_not_disclosed(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("a-token-of-somebody")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / FILE).symlink_to(secret)
    found, _ = outcome(None, said(""), weights)
    assert "somebody" not in str(found)
    (weights / FILE).unlink()
    os.mkfifo(weights / FILE)
    assert outcome(None, said(""), weights)[0]["answer"] == "not_asked"


def test_health_waits_for_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text(json.dumps(CHAT))
    monkeypatch.setattr(expected_answer, "_HEALTH_DELAY_SECONDS", 600.0)

    async def run() -> None:
        app = Application(said(CHAT["starts_with"]))
        async with served(app, tmp_path) as get:
            assert (await get("/llmariner/answer"))["answer"] == "pending"
            healthy = asyncio.create_task(get("/health"))
            await asyncio.sleep(0.05)
            assert not healthy.done()
            app.may.set()
            await asyncio.wait_for(healthy, 20)
            assert (await get("/llmariner/answer"))["answer"] == "as_expected"

    asyncio.run(run())


def test_health_waits_briefly_and_the_server_stops_without_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text(json.dumps(CHAT))
    assert expected_answer._HEALTH_DELAY_SECONDS <= 2
    monkeypatch.setattr(expected_answer, "_HEALTH_DELAY_SECONDS", 0.1)

    async def run() -> bool:
        app = Application(said(""))
        async with served(app, tmp_path) as get:
            began = time.monotonic()
            for _ in range(3):
                await asyncio.wait_for(get("/health"), 10)
            assert time.monotonic() - began < 5
            assert (await get("/llmariner/answer"))["answer"] == "pending"
        await asyncio.sleep(0.01)
        return app.cancelled

    assert asyncio.run(run())


def test_a_missing_answer_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / FILE).write_text(json.dumps(CHAT))
    monkeypatch.setattr(expected_answer, "_CHECK_TIMEOUT_SECONDS", 0.05)

    async def run() -> dict[str, Any]:
        async with served(Application(said("")), tmp_path) as get:
            return await reported(get)

    assert asyncio.run(run())["answer"] == "not_asked"


def test_the_packaged_models_files_are_valid() -> None:
    for model in PACKAGED:
        assert parse(json.dumps(asdict(model.expected)).encode()) == model.expected
