"""Events that a Broker could not deliver are stored by `dead_letters` under their consumer's name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.events.cloudevents import Event, to_http

from .http_calls import HttpRequest, send_over_http
from .installation import Installation
from .outbox_events import write_event
from .processes import CHECKOUT, boot_command, framework_command, process

WAYS = {"framework": framework_command, "boot": boot_command}
FOLDER = CHECKOUT / "eventing/dead_letters"
UNKNOWN = Event("evt_forged", "ai.llmariner.model.deleted.v1", "models/x", 1.5, {"project_id": "proj_forged"})


@pytest.fixture(scope="module")
def ports(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The function in both modes."""
    logs = tmp_path_factory.mktemp("dead_letters")
    with ExitStack() as children:
        yield {
            way: children.enter_context(process(command(FOLDER), installation.environment, logs / way))
            for way, command in WAYS.items()
        }


def sent(port: int, path: str, event: Event, **headers: str) -> Any:
    said, body = to_http(event)
    return send_over_http(port, HttpRequest("POST", path, body, {**said, **headers}))


def letter(installation: Installation, name: str) -> Event:
    return write_event(installation, "ai.llmariner.test.v1", {"project_id": f"proj_{name}"})


def refused(code: str, text: str) -> dict[str, str]:
    """Knative's error attributes."""
    return {"ce-knativeerrorcode": code, "ce-knativeerrordata": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("way", WAYS)
def test_a_dead_letter_is_stored_with_its_consumer_and_reason(
    way: str, ports: dict[str, int], installation: Installation
) -> None:
    event = letter(installation, way)
    for _ in range(2):
        assert sent(ports[way], "/model_loader", event, **refused("500", "OSError: no")).status == 200
    (dead,) = installation.context.deliveries.page(f"proj_{way}", "dead", after=None, limit=10)[:1]
    assert (dead.consumer, dead.last_error, dead.event) == ("model_loader", "500: OSError: no", event)


REASONS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "The consumer did not take it."),
    "no text": ({"ce-knativeerrorcode": "503"}, "503"),
    "no base64": ({"ce-knativeerrorcode": "503", "ce-knativeerrordata": "?"}, "503"),
    "a text that is not ASCII": (refused("400", "a é"), "400: a é"),
}


@pytest.mark.parametrize("what", REASONS)
def test_the_reason_is_as_complete_as_the_headers(what: str, ports: dict[str, int], installation: Installation) -> None:
    headers, reason = REASONS[what]
    name = what.replace(" ", "_")
    event = letter(installation, name)
    assert sent(ports["boot"], "/sweep", event, **headers).status == 200
    (dead,) = [
        d
        for d in installation.context.deliveries.page(f"proj_{name}", "dead", after=None, limit=50)
        if d.event.id == event.id
    ]
    assert dead.last_error == reason


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("path", ["/Sweep", "/sweep/x", "/..", "/" + "a" * 65, "/a-b"])
def test_an_unknown_consumer_is_rejected_with_an_error_object(way: str, path: str, ports: dict[str, int]) -> None:
    answer = sent(ports[way], path, UNKNOWN)
    assert answer.status == (404 if "/" in path[1:] else 400)
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("way", WAYS)
def test_a_request_without_an_event_is_rejected_permanently(way: str, ports: dict[str, int]) -> None:
    answer = send_over_http(ports[way], HttpRequest("POST", "/sweep", b"{}", {"content-type": "application/json"}))
    assert answer.status == 400
    assert answer.error["message"].startswith("Not a CloudEvent")


OF_KUBERNETES = {"type": "dev.knative.apiserver.ref.add", "specversion": "1.0", "source": "/x", "subject": "/apis/x"}
UNREADABLE: dict[str, dict[str, Any]] = {
    "half of a surrogate pair": {"data": {"x": "\ud800"}},
    "a name that is half of a pair": {"data": {"\udc00": 1}},
    "a subject that is half of a pair": {"subject": "\ud800"},
    "no number": {"data": {"x": float("nan")}},
    "a number without end": {"data": {"x": float("inf")}},
    "depth": {"data": {"x": json.loads("[" * 300 + "]" * 300)}},
    "a time before all calendars": {"time": "0001-01-01T00:00:00+14:00"},
    "a time after all calendars": {"time": "9999-12-31T23:59:59-14:00"},
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_an_unreadable_event_is_not_stored(what: str, ports: dict[str, int], installation: Installation) -> None:
    event = {**OF_KUBERNETES, "id": "unreadable", "data": {}, **UNREADABLE[what]}
    headers = {"content-type": "application/cloudevents+json"}
    answer = send_over_http(ports["boot"], HttpRequest("POST", "/sweep", json.dumps(event).encode(), headers))
    assert (answer.status, answer.error["message"].partition(":")[0]) == (400, "Not a CloudEvent")
    page = installation.context.deliveries.page("proj_1", "dead", after=None, limit=100)
    assert "unreadable" not in [delivery.event.id for delivery in page]


def test_a_dead_letter_is_not_lost_while_the_database_is_down(tmp_path: Path) -> None:
    secrets = {"LLMARINER_PEPPER": "p" * 32, "LLMARINER_SERVICE_SECRET": "s" * 32}
    environment = {"LLMARINER_DATABASE_URL": f"sqlite:///{tmp_path}/nowhere/x.db", **secrets}
    with process(boot_command(FOLDER), environment, tmp_path / "log") as port:
        assert sent(port, "/sweep", UNKNOWN).status == 503


@pytest.mark.parametrize("way", WAYS)
def test_an_event_that_is_not_in_the_outbox_is_not_stored(
    way: str, ports: dict[str, int], installation: Installation
) -> None:
    answer = sent(ports[way], "/model_loader", UNKNOWN)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    page = installation.context.deliveries.page("proj_forged", None, after=None, limit=100)
    assert UNKNOWN.id not in [delivery.event.id for delivery in page]


def test_the_number_of_consumers_per_event_is_bounded(ports: dict[str, int], installation: Installation) -> None:
    event = letter(installation, "many")
    answers = [sent(ports["boot"], f"/consumer_{number}", event).status for number in range(25)]
    assert answers == [200] * 20 + [400] * 5
    assert sent(ports["boot"], "/consumer_0", event).status == 200
