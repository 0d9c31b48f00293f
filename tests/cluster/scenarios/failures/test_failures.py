"""A model that cannot start reports the cause to waiting requests and prevents no other model from starting."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmariner.settings import StandaloneSettings, environment

from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import MODELS
from ..engines import scripted, service
from ..platform_client import Answer, PlatformClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_GROW = "grown = []\nwhile True: grown.append(bytearray(b'x' * (8 << 20)))"
NO_IMAGE = "localhost/nobody/made-this:1"
BROKEN: dict[str, tuple[Callable[[str], dict[str, Any]], str]] = {
    "an image that is not there": (
        lambda name: service(name, container={"image": NO_IMAGE}),
        f"image {NO_IMAGE}: ",
    ),
    "more memory than it may have": (
        lambda name: service(name, container={"command": ["python3", "-c", _GROW]}),
        "out of memory. Give the model more memory, or choose a smaller one.",
    ),
    "an engine that ends": (
        lambda name: service(name, "--fail-load"),
        "exit status 1",
    ),
}


@pytest.fixture
def client(installed: Installed) -> Iterator[PlatformClient]:
    client = PlatformClient(installed)
    yield client
    client.close()


def failed(answer: Answer, cause: str) -> None:
    assert answer.error is not None
    print(f"\n{answer.error['message']}")
    assert answer.error["phase"] == "failed"
    assert cause in answer.error["message"]


@pytest.mark.parametrize("what", BROKEN)
def test_the_cause_is_reported_and_other_models_are_served(what: str, client: PlatformClient) -> None:
    make, cause = BROKEN[what]
    mark = uuid.uuid4().hex[:6]
    broken, sound = f"broken-{mark}", f"sound-{mark}"
    with scripted(client.installed.lab, make(broken), service(sound)):
        client.adopted(broken, sound)
        streamed = client.stream(broken, wait=120)
        failed(streamed, cause)
        whole = client.whole(broken, wait=120)
        assert whole.status == 503
        failed(whole, cause)
        assert client.whole(sound, wait=60).status == 200


def test_missing_weights(client: PlatformClient) -> None:
    name = f"weightless-{uuid.uuid4().hex[:6]}"
    body = {
        "id": name,
        "source_repository": "OBJECT_STORE",
        "model_file_location": f"pvc://{MODELS}/nobody-put-this-here",
        "task": "generate",
        "config": {"runtime_config": {"resources": {"gpu": 0}}},
    }
    status, body = client.installed.call("POST", "/models", body)
    assert status == 200, body
    try:
        until("registered", lambda: None if name in client.listed() else "not listed")
        failed(client.stream(name, wait=180), "config.json")
    finally:
        client.installed.call("POST", f"/models/{name}:deactivate")
        status, body = client.installed.call("DELETE", f"/models/{name}")
        # The node makes what a volume's path names.
        with contextlib.suppress(OSError):
            (StandaloneSettings.load(environment()).cache / "models" / "nobody-put-this-here").rmdir()
    assert status == 200, body
    until("gone from the cluster", lambda: client.service(name) or None)
