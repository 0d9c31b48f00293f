"""Streams continue to their end while the function that relays them is replaced."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid

import pytest

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..engines import scripted, service
from ..functions import Call, Functions
from ..platform_client import Answer, PlatformClient

SECONDS = int(os.environ.get("LLMARINER_STREAM_SECONDS", "150"))
"""How long streams last; 3900 for those of an hour and more."""
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(SECONDS + 600)]

_FUNCTION = "chat-completions"
_STREAMS = 5
_INTERVAL = 0.5
_TICK = Call(
    "POST",
    "/",
    {
        "ce-specversion": "1.0",
        "ce-id": uuid.uuid4().hex,
        "ce-source": "/llmariner",
        "ce-type": "ai.llmariner.platform.tick.v1",
    },
    {"every_seconds": 300},
)


def test_no_stream_is_interrupted(installed: Installed) -> None:
    functions, client, name = Functions(installed), PlatformClient(installed), f"rolling-{uuid.uuid4().hex[:6]}"
    with contextlib.closing(client), scripted(installed.lab, service(name, f"--token-interval={_INTERVAL * 1000:.0f}")):
        assert functions.ask("sweep", _TICK).status == 204
        until("adopted", lambda: None if name in client.listed() else "not listed")
        assert client.whole(name, wait=120, max_tokens=2).status == 200
        old = functions.services()[_FUNCTION]["status"]["latestReadyRevisionName"]
        streams = _Streams(client, name)
        streams.start()
        time.sleep(5)
        change = {"op": "add", "path": "/spec/template/metadata/annotations/llmariner.ai~1scenario", "value": name}
        with functions.changed(_FUNCTION, [change]) as new:
            assert new != old
            assert streams.alive() == _STREAMS
            answer = client.whole(name, max_tokens=2)
            assert answer.status == 200, answer
            print(f"\n{new} took over; {streams.alive()} streams continue by {_pods(functions)}")
            _check(streams.join())
        print(f"{_STREAMS} streams of {SECONDS} s each, {len(streams.answers[0].events)} events, none cut")
        rows = [client.row(each.request_id) for each in streams.answers]
        assert {row["outcome"] for row in rows} == {"succeeded"}, rows


class _Streams:
    """Streams under way, each read by a thread."""

    def __init__(self, client: PlatformClient, model: str) -> None:
        self.answers: list[Answer] = []
        self._client, self._model = client, model
        self._threads = [threading.Thread(target=self._read) for _ in range(_STREAMS)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def alive(self) -> int:
        return sum(each.is_alive() for each in self._threads)

    def join(self) -> list[Answer]:
        for each in self._threads:
            each.join()
        return self.answers

    def _read(self) -> None:
        self.answers.append(self._client.stream(self._model, max_tokens=int(SECONDS / _INTERVAL)))


def _check(answers: list[Answer]) -> None:
    assert len(answers) == _STREAMS
    for each in answers:
        assert each.status == 200, each
        assert each.error is None, each.error
        assert each.usage["completion_tokens"] == int(SECONDS / _INTERVAL)


def _pods(functions: Functions) -> list[str]:
    selector = f"serving.knative.dev/service={_FUNCTION}"
    pods = get(functions.lab, "pods", "-n", "llmariner", "-l", selector)["items"]
    return [pod["metadata"]["labels"]["serving.knative.dev/revision"] for pod in pods]
