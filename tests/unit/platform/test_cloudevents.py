"""CloudEvents over HTTP: binary mode out, binary or structured mode in, and nothing else accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmariner.platform.events.cloudevents import SOURCE, Event, MalformedEvent, from_http, to_http

EVENT = Event("evt_1", "ai.llmariner.model.created.v1", "models/org/name", 1_700_000_000.25, {"id": "org/name"})
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "t", "content-type": "application/json"}


def test_an_event_is_sent_in_binary_mode() -> None:
    headers, body = to_http(EVENT)
    assert {name.lower(): value for name, value in headers.items()} == {
        "ce-specversion": "1.0",
        "ce-id": "evt_1",
        "ce-source": SOURCE,
        "ce-type": "ai.llmariner.model.created.v1",
        "ce-subject": "models/org/name",
        "ce-partitionkey": "models/org/name",
        "ce-time": "2023-11-14T22:13:20.250000+00:00",
        "content-type": "application/json",
    }
    assert json.loads(body) == {"id": "org/name"}


DATA = st.dictionaries(
    st.text(max_size=5),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)),
    max_size=4,
)
WORDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789._/-", min_size=1, max_size=20)


@settings(max_examples=80, deadline=None)
@given(WORDS, WORDS, WORDS, st.integers(0, 4_000_000_000), DATA)
def test_serialization_round_trip(id_: str, type_: str, subject: str, at: int, data: dict[str, Any]) -> None:
    event = Event(id_, type_, subject, float(at), data)
    headers, body = to_http(event)
    assert from_http(headers, body) == event
    assert from_http({name.upper(): value for name, value in headers.items()}, body) == event


def test_a_structured_event_is_parsed() -> None:
    whole = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "subject": "s", "data": {"a": 1}}
    headers = {"content-type": "application/cloudevents+json; charset=utf-8"}
    event = from_http(headers, json.dumps({**whole, "time": "2023-11-14T22:13:20Z"}).encode())
    assert event == Event("1", "t", "s", 1_700_000_000.0, {"a": 1})


def test_a_subject_and_a_time_are_optional() -> None:
    event = from_http(BINARY, b"{}")
    assert (event.subject, event.data) == ("", {})
    assert event.time > 1_700_000_000


def test_unknown_attributes_are_ignored() -> None:
    assert from_http({**BINARY, "ce-traceparent": "00-x", "x-other": "y"}, b"{}").id == "1"


@pytest.mark.parametrize("missing", ["ce-specversion", "ce-id", "ce-source", "ce-type"])
def test_an_event_without_a_required_attribute_is_malformed(missing: str) -> None:
    with pytest.raises(MalformedEvent):
        from_http({name: value for name, value in BINARY.items() if name != missing}, b"{}")


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"1", b"null", b"{", b"\xff", b"{} {}"])
def test_an_event_whose_data_is_not_an_object_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        from_http(BINARY, body)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b""),
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"{}"),
        ({"content-type": "application/cloudevents+json"}, b"["),
        ({**BINARY, "ce-specversion": "9.9"}, b"{}"),
        ({**BINARY, "ce-time": "noon"}, b"{}"),
    ],
)
def test_a_request_without_an_event_is_malformed(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        from_http(headers, body)
