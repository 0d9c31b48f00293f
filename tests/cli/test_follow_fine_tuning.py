"""`llma fine-tuning jobs logs` and `watch`: lines in a pipe, a picture on a terminal, connections that break."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import Response
from .fine_tuning_cases import DONE, EVENT, FAILED, JOB
from .test_terminal import Open, terminal

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

__all__ = ["terminal"]

ROUTE, EVENTS = "GET /fine_tuning/jobs/ftjob-1", "GET /fine_tuning/jobs/ftjob-1/events"
RUNNING = {**JOB, "status": "running", "queue": None, "cost_usd": 0.0125}
ESTIMATE = {"tokens": 3000, "seconds": 75.0, "cost_usd": 0.5, "seconds_left": 61.4}


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmariner.cli.fine_tuning.followed_events._PAUSE_SECONDS", 0.01)


def message(number: int, text: str) -> dict[str, Any]:
    return {**EVENT, "id": f"ftevent-{number}", "type": "message", "message": text, "data": {}}


def metrics(step: int, **data: float) -> dict[str, Any]:
    shown = f"Step {step}/90: training loss={3 - step / 45:.4f}"
    return {
        **EVENT,
        "id": f"ftevent-m{step}",
        "message": shown,
        "data": {"step": step, "train_loss": 3 - step / 45, **data},
    }


def sent(*events: dict[str, Any]) -> bytes:
    return b"".join(f"id: {event['id']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


END = b"data: [DONE]\n\n"


def test_logs_are_lines_oldest_first(llma: Llma, platform: FakePlatform) -> None:
    listed = [message(2, "two\nlines"), message(1, "The job is created.")]
    platform.respond(EVENTS, {"object": "list", "data": listed, "has_more": False})
    shown = llma("fine-tuning", "jobs", "logs", "ftjob-1")
    assert shown.code == 0
    assert shown.out == ("2025-10-09 08:53:20  info   The job is created.\n2025-10-09 08:53:20  info   two lines\n")
    assert [json.loads(line) for line in llma("-o", "json", "ft", "jobs", "logs", "ftjob-1").out.splitlines()] == [
        listed[1],
        listed[0],
    ]


def test_a_broken_stream_continues_after_its_last_event(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(ROUTE, RUNNING)
    last = sent(metrics(2, valid_loss=1.5, tokens_per_second=310.4)) + b": heartbeat\n\n" + END
    platform.script(
        EVENTS,
        Response(chunks=[b": open\n\n", sent(message(1, "one"))]),  # cut off: it has no end
        Response(drop=True),
        Response({"error": {"message": "It restarts.", "type": "server_error", "code": None}}, status=503),
        Response(chunks=[last[:9], last[9:]]),
    )
    shown = llma("fine-tuning", "jobs", "logs", "-f", "ftjob-1")
    assert shown.code == 0
    lines = [line[21:] for line in shown.out.splitlines()]
    assert lines == ["info   one", "info   Step 2/90: training loss=2.9556, validation loss=1.5000, 310 tokens/s"]
    asked = [request.query for request in platform.requests if request.path.endswith("/events")]
    assert asked == [{"stream": "true"}, *[{"stream": "true", "after": "ftevent-1"}] * 3]
    assert "It restarts. [503] Still trying." in shown.err


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b'data: {"error": {"message": "You lost the right.", "type": "invalid_request_error"}}\n\n', 3),
        (b'data: {"error": {"message": "You lost the right.", "type": "server_error"}}\n\n' + END, 0),
        (b"data: {\n\n" + END, 0),
    ],
)
def test_an_error_in_a_stream(frame: bytes, code: int, llma: Llma, platform: FakePlatform) -> None:
    platform.respond(ROUTE, RUNNING)
    platform.script(EVENTS, Response(chunks=[sent(message(1, "one")), frame]), Response(chunks=[END]))
    shown = llma("fine-tuning", "jobs", "logs", "-f", "ftjob-1")
    assert shown.code == code, shown.err
    assert ("You lost the right." in shown.err) == (b"right" in frame)
    assert "Traceback" not in shown.err


def test_following_a_job_that_is_not_there_fails_at_once(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error(ROUTE, 404, message="No such fine-tuning job.", code="not_found")
    for command in (("logs", "-f"), ("watch",)):
        assert llma("fine-tuning", "jobs", *command, "ftjob-1").code == 4


def test_watching_in_a_pipe_prints_lines(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(ROUTE, {**JOB, "estimate": ESTIMATE}, DONE)
    platform.respond_with(EVENTS, chunks=[sent(message(1, "Fine-tuning job started"), metrics(1)), END])
    shown = llma("fine-tuning", "jobs", "watch", "ftjob-1")
    assert (shown.code, shown.err) == (0, "")
    first, *events, last = shown.out.splitlines()
    assert first == "queued, place 2: Jobs run before it. Estimate: 3,000 tokens, 1 min 15 s, $0.50"
    assert [line[21:] for line in events] == [
        "info   Fine-tuning job started",
        "info   Step 1/90: training loss=2.9778",
    ]
    assert last.startswith("succeeded: ft:smol:org:x")
    platform.respond(ROUTE, FAILED)
    shown = llma("fine-tuning", "jobs", "watch", "ftjob-1")
    assert (shown.code, "has ended: failed" in shown.err) == (1, True)
    assert "failed: Line 4: it is a preference." in shown.out


def test_watching_on_a_terminal_draws_the_curve_until_the_job_ends(terminal: Open, platform: FakePlatform) -> None:
    may_continue = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield sent(message(1, "Validating \x1b[31mfile"))
        may_continue.wait(30)
        yield sent(*(metrics(step, **({"valid_loss": 2.0} if step % 30 == 0 else {})) for step in range(1, 91)))
        yield sent(message(2, "The job has successfully completed"), message(3, "A" * 500)) + END

    platform.respond(ROUTE, {**JOB, "estimate": {**ESTIMATE, "gate": {"answers": 24}}})
    platform.respond_with(EVENTS, chunks=chunks())
    shown = terminal("--color", "never", "fine-tuning", "jobs", "watch", "ftjob-1", columns="80")
    shown.wait_for("queued, place 2: Jobs run before it.")
    shown.wait_for("estimate: 3,000 tokens, 24 graded answers, 1 min 15 s, $0.50")
    shown.wait_for("Validating [31mfile")
    platform.respond(ROUTE, {**DONE, "finished_at": 1_760_000_500})
    may_continue.set()
    assert shown.end() == 0
    written = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.written)
    last = [line.rstrip() for line in written[written.rindex("ftjob-1  smol") :].splitlines()]
    assert last[1] == "succeeded: ft:smol:org:x"
    assert last[2].startswith("step 12 of 90  ")
    chart = "\n".join(last)
    assert "  2.978 │" in chart
    assert chart.count("×") == 4, "three of them, and the legend"
    assert "training loss 1.0000   × validation loss 2.0000" in chart
    assert max(map(len, last)) <= 80
    assert "ctrl-C" not in chart


def test_ctrl_c_ends_the_watching(terminal: Open, platform: FakePlatform) -> None:
    ended = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield sent(metrics(1))
        ended.wait(30)

    platform.respond(ROUTE, RUNNING)
    platform.respond_with(EVENTS, chunks=chunks())
    shown = terminal("fine-tuning", "jobs", "watch", "ftjob-1")
    shown.wait_for("training loss 2.9778")
    shown.process.send_signal(signal.SIGINT)
    code = shown.end()
    ended.set()
    assert code == 130
    assert "Traceback" not in shown.written
    assert not [request for request in platform.requests if request.method != "GET"]
